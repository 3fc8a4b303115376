"""What a configuration leaves open."""

from hydra import compose, initialize_config_dir

from pyro_vmtl.inference import Constant, TrainingSettings
from pyro_vmtl.runs.configuration import config_folder, read_plan


def _training(*overrides: str) -> TrainingSettings:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", ["data=clusters", "experiment=x", "recipe=default", *overrides])
        return read_plan(config).training


def test_the_trainer_leaves_to_the_model_what_python_does() -> None:
    assert _training() == TrainingSettings()
    assert TrainingSettings().learning_rate is None


def test_what_is_open_can_be_set_when_a_run_goes_on() -> None:
    """The configuration that a run folder keeps has the same keys as the one that was read."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", ["data=clusters", "experiment=x", "recipe=default"])
    before = config.trainer.copy()
    read_plan(config)
    assert config.trainer == before
    assert config.trainer.learning_rate.value is None


def test_a_value_on_the_command_line_decides() -> None:
    chosen = _training("trainer.learning_rate.value=0.1", "trainer.epochs=3")
    assert chosen == TrainingSettings(epochs=3, learning_rate=Constant(0.1))
