"""Market data as Dagster software-defined assets.

Importing this package does nothing: no settings are read, no connection is opened.

Imports run one way: ``domain`` <- ``polygon``, ``storage`` <- ``assets``, ``checks`` <- ``automation``,
``cli``, ``api``. ``domain`` decides, ``storage`` writes, assets orchestrate.
"""
