"""The command line with the commands of the evaluation."""

from attention.cli import app
from tools.evaluation import false_alarms, random_options

__all__ = ["app", "false_alarms", "random_options"]

if __name__ == "__main__":
    app()
