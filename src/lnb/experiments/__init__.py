"""Experiments: tasks, optimizers to compare, and a training loop that yields records.

    task = find_task("digits")
    scale = task.at("cpu")
    problem = task.build(scale.settings, 0)
    for record in train(problem, task.optimizers["lnb"], epochs=scale.epochs, evaluate_every=5):
        ...

Needs the extra `lnb[experiments]`.
"""

from lnb.experiments._checkpoints import Checkpoints as Checkpoints
from lnb.experiments._commands import repeat_command as repeat_command
from lnb.experiments._errors import ExperimentError as ExperimentError
from lnb.experiments._findings import Entry as Entry
from lnb.experiments._findings import Experiment as Experiment
from lnb.experiments._findings import Reach as Reach
from lnb.experiments._findings import Spread as Spread
from lnb.experiments._findings import experiments_of as experiments_of
from lnb.experiments._gauss_newton import GaussNewton as GaussNewton
from lnb.experiments._kfac import KFAC as KFAC
from lnb.experiments._kfac import Classifier as Classifier
from lnb.experiments._optimizers import LNB as LNB
from lnb.experiments._optimizers import OPTIMIZERS as OPTIMIZERS
from lnb.experiments._optimizers import SGD as SGD
from lnb.experiments._optimizers import Adam as Adam
from lnb.experiments._optimizers import AdamW as AdamW
from lnb.experiments._optimizers import LNBAuto as LNBAuto
from lnb.experiments._optimizers import LNBCholesky as LNBCholesky
from lnb.experiments._optimizers import LNBDiagonal as LNBDiagonal
from lnb.experiments._optimizers import LNBLowRank as LNBLowRank
from lnb.experiments._optimizers import Muon as Muon
from lnb.experiments._optimizers import OptimizerSettings as OptimizerSettings
from lnb.experiments._optimizers import check_optimizer as check_optimizer
from lnb.experiments._records import RecordWriter as RecordWriter
from lnb.experiments._records import Run as Run
from lnb.experiments._records import RunHeader as RunHeader
from lnb.experiments._records import check_same_settings as check_same_settings
from lnb.experiments._records import describe_environment as describe_environment
from lnb.experiments._records import read_begun as read_begun
from lnb.experiments._records import read_run as read_run
from lnb.experiments._results import Results as Results
from lnb.experiments._results import read_results as read_results
from lnb.experiments._sentences import Sentence as Sentence
from lnb.experiments._sentences import reach_of_baseline as reach_of_baseline
from lnb.experiments._sentences import reach_of_target as reach_of_target
from lnb.experiments._sentences import sentences_of as sentences_of
from lnb.experiments._stored import StoredRun as StoredRun
from lnb.experiments._summary import Summary as Summary
from lnb.experiments._summary import has_ended as has_ended
from lnb.experiments._summary import summarize as summarize
from lnb.experiments._summary import timed_together as timed_together
from lnb.experiments._sweep import Choice as Choice
from lnb.experiments._sweep import choose_rate as choose_rate
from lnb.experiments._sweep import end_value as end_value
from lnb.experiments._sweep import finish_run as finish_run
from lnb.experiments._sweep import grid_of as grid_of
from lnb.experiments._sweep import sweep as sweep
from lnb.experiments._task import SCALES as SCALES
from lnb.experiments._task import Scale as Scale
from lnb.experiments._task import Target as Target
from lnb.experiments._task import Task as Task
from lnb.experiments._tasks import TASKS as TASKS
from lnb.experiments._tasks import find_task as find_task
from lnb.experiments._training import Cost as Cost
from lnb.experiments._training import Problem as Problem
from lnb.experiments._training import Progress as Progress
from lnb.experiments._training import Record as Record
from lnb.experiments._training import Schedule as Schedule
from lnb.experiments._training import Training as Training
from lnb.experiments._training import prepare as prepare
from lnb.experiments._training import train as train
from lnb.experiments._verdicts import Case as Case
from lnb.experiments._verdicts import Fact as Fact
from lnb.experiments._verdicts import PaperFigure as PaperFigure
from lnb.experiments._verdicts import papers_figures as papers_figures
