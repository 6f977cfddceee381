"""``python -m deploy``: write the generated files anew."""

from deploy.settings import FOLDER, generated

for name, text in generated().items():
    (FOLDER / name).write_text(text, encoding="utf-8")
