"""The settings of a training run that is small enough for a test."""

TINY = {
    "iterations": 4,
    "sizes": (32,),
    "batch": 2,
    "pool_size": 12,
    "compile": False,
    "log_interval": 1,
    "held_out_interval": 2,
    "checkpoint_interval": 2,
}
