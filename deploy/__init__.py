"""What runs the platform on more than one machine: image, Docker Compose, Helm values (docs/deploy.md).

``python -m deploy`` writes ``compose/dagster.yaml`` and ``helm/values.yaml``. Both come from ``dagster.yaml`` at the
root: only what a place has to change is said here. In ``compose/docker-compose.yml`` it writes the environment, one
variable for each setting. No secret belongs in any of these files.
"""
