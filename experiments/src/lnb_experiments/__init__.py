"""Experiments with linear neuron boosting: tasks, optimizers to compare, and a training loop that yields records.

task = find_task("digits")
scale = task.at("cpu")
problem = task.build(scale.settings, seed=0)
for record in train(problem, task.optimizers["lnb"], epochs=scale.epochs, evaluate_every=5):
    ...
"""

from lnb_experiments._errors import ExperimentError as ExperimentError
from lnb_experiments.analysis._findings import Entry as Entry
from lnb_experiments.analysis._findings import Experiment as Experiment
from lnb_experiments.analysis._findings import TimeToTarget as TimeToTarget
from lnb_experiments.analysis._findings import experiments_of as experiments_of
from lnb_experiments.analysis._verdicts import Criterion as Criterion
from lnb_experiments.analysis._verdicts import Judgement as Judgement
from lnb_experiments.analysis._verdicts import PaperFigure as PaperFigure
from lnb_experiments.analysis._verdicts import paper_figures as paper_figures
from lnb_experiments.optimizers._gauss_newton import GaussNewton as GaussNewton
from lnb_experiments.optimizers._kfac import KFAC as KFAC
from lnb_experiments.optimizers._kfac import Classifier as Classifier
from lnb_experiments.optimizers._optimizers import LNB as LNB
from lnb_experiments.optimizers._optimizers import OPTIMIZERS as OPTIMIZERS
from lnb_experiments.optimizers._optimizers import SGD as SGD
from lnb_experiments.optimizers._optimizers import Adam as Adam
from lnb_experiments.optimizers._optimizers import Muon as Muon
from lnb_experiments.optimizers._optimizers import OptimizerSettings as OptimizerSettings
from lnb_experiments.optimizers._optimizers import check_optimizer as check_optimizer
from lnb_experiments.optimizers._optimizers import paper_lnb as paper_lnb
from lnb_experiments.optimizers._optimizers import settings_of as settings_of
from lnb_experiments.runs._archive import Results as Results
from lnb_experiments.runs._archive import pack_results as pack_results
from lnb_experiments.runs._archive import read_archive as read_archive
from lnb_experiments.runs._archive import read_results as read_results
from lnb_experiments.runs._commands import repeat_command as repeat_command
from lnb_experiments.runs._records import RecordWriter as RecordWriter
from lnb_experiments.runs._records import Run as Run
from lnb_experiments.runs._records import RunHeader as RunHeader
from lnb_experiments.runs._records import Summary as Summary
from lnb_experiments.runs._records import check_same_settings as check_same_settings
from lnb_experiments.runs._records import describe_environment as describe_environment
from lnb_experiments.runs._records import has_ended as has_ended
from lnb_experiments.runs._records import read_previous as read_previous
from lnb_experiments.runs._records import read_run as read_run
from lnb_experiments.runs._records import summarize as summarize
from lnb_experiments.runs._stored import StoredRun as StoredRun
from lnb_experiments.runs._stored import locked as locked
from lnb_experiments.runs._sweep import Choice as Choice
from lnb_experiments.runs._sweep import choose_rate as choose_rate
from lnb_experiments.runs._sweep import end_value as end_value
from lnb_experiments.runs._sweep import finish_run as finish_run
from lnb_experiments.runs._sweep import grid_of as grid_of
from lnb_experiments.runs._sweep import sweep as sweep
from lnb_experiments.runs._training import Cost as Cost
from lnb_experiments.runs._training import Problem as Problem
from lnb_experiments.runs._training import Progress as Progress
from lnb_experiments.runs._training import Record as Record
from lnb_experiments.runs._training import Schedule as Schedule
from lnb_experiments.runs._training import Training as Training
from lnb_experiments.runs._training import prepare as prepare
from lnb_experiments.runs._training import train as train
from lnb_experiments.tasks._networks import Dense as Dense
from lnb_experiments.tasks._networks import apply_mlp as apply_mlp
from lnb_experiments.tasks._networks import init_mlp as init_mlp
from lnb_experiments.tasks._task import SCALES as SCALES
from lnb_experiments.tasks._task import Scale as Scale
from lnb_experiments.tasks._task import Target as Target
from lnb_experiments.tasks._task import Task as Task
from lnb_experiments.tasks._tasks import TASKS as TASKS
from lnb_experiments.tasks._tasks import find_task as find_task
