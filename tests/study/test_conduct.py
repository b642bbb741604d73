import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import FAST, JOB, Heard, conduct, images

from sbim_deploy.errors import InputError
from sbim_deploy.io.partial import partial_folder
from sbim_deploy.io.result_file import open_result
from sbim_deploy.recon.model import DEMO_FOLDER, load_model
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.study.conduct import Conductor
from sbim_deploy.study.files import study_files
from sbim_deploy.study.model_transport import ModelReference
