"""`python -m tools.evaluation`."""

from tools.evaluation import false_alarms, random_options
from tools.evaluation.application import app

__all__ = ["false_alarms", "random_options"]

if __name__ == "__main__":
    app()
