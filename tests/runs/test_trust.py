"""A configuration of somebody else's makes parts of this library, and runs nothing of theirs."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import pyro_vmtl as pv
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import Pool, Standard
from pyro_vmtl.runs import config_folder, read_plan
from pyro_vmtl.runs.trust import check_names_of_code, named_by_the_user

Train = Callable[..., Path]
RAN: list[str] = []


class Mine(Standard):
    """A part of a user's own."""


@pytest.fixture(autouse=True)
def _module(monkeypatch: pytest.MonkeyPatch) -> None:
    RAN.clear()
    module = ModuleType("somebody")
    monkeypatch.setattr(Mine, "__module__", module.__name__)
    vars(module).update(Mine=Mine, run=lambda *a, **k: RAN.append("run"), net=torch.nn.Identity)
    monkeypatch.setitem(sys.modules, module.__name__, module)


ATTACKS: dict[str, object] = {
    "model": {"encoder": {"_target_": "somebody.run"}},
    "lists": [{"_target_": "somebody.run"}],
    "pool": {"_target_": "builtins.eval", "_args_": ["1"]},
    "representation_pool": {"_target_": "pyro_vmtl.Standard", "x": {"_target_": "somebody.run"}},
    "likelihood": {"_target_": "hydra.utils.get_class", "path": "somebody.Mine"},
    "data": {"_target_": "pyro_vmtl.inference.fit.os.getcwd"},
    "trainer": {"epochs": 1, "kl_weights": {"_target_": "hydra.utils.call", "x": 1}},
}


@pytest.mark.parametrize("part", ATTACKS)
def test_a_run_folder_of_somebody_elses_runs_nothing(
    train: Train,
    clusters: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    part: str,
) -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", list(clusters)))
    assert isinstance(config, dict)
    folder = Path("theirs")
    folder.mkdir()
    hydra = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    part, attack = ("likelihood" if part == "lists" else part), ATTACKS[part]
    config |= {"experiment": "x", "recipe": "x", part: attack}
    config |= {"defaults": [*hydra, "_self_"], "allow": ["somebody", "os"]}
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    with pytest.raises(SystemExit) as exit_:
        train("--config-dir=theirs", "--config-name=config", small=False)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert f"the configuration of {part} names " in error
    assert "=[" in error
    assert error.count("\n") == 1
    assert not RAN


@pytest.mark.parametrize(
    ("hydra", "says"),
    [
        ({"callbacks": {"x": {"_target_": "somebody.run"}}}, "hydra names somebody.run"),
        ({"job_logging": {"version": 1, "filters": {"x": {"()": "somebody.run"}}}}, "somebody.run"),
        (
            {"hydra_logging": {"version": 1, "handlers": {"x": {"class": "somebody.run"}}}},
            "hydra names somebody.run",
        ),
        ({"launcher": {"_target_": "somebody.run"}}, "hydra names somebody.run"),
        ({"overrides": {"task": ["allow=somebody"]}}, "passes allow=somebody off as an override"),
        ({"searchpath": ["pkg://somebody"]}, "hydra.searchpath names somebody"),
        ({"job": {"env_set": {"LD_PRELOAD": "x.so"}}}, "variables of the environment"),
    ],
    ids=str,
)
def test_nor_do_its_settings_of_hydra(
    train: Train, capsys: pytest.CaptureFixture[str], hydra: dict[str, object], says: str
) -> None:
    Path("theirs").mkdir()
    config = {"run_dir": None, "hydra": hydra}
    OmegaConf.save(OmegaConf.create(config), "theirs/config.yaml")
    for flags in ((), ("--multirun",)):
        with pytest.raises(SystemExit) as exit_:
            train("--config-dir=theirs", "--config-name=config", *flags, small=False)
        assert exit_.value.code == 2
        assert says in capsys.readouterr().err
    assert not RAN


def test_what_the_command_line_names_is_allowed(
    train: Train, clusters: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(*clusters, "+pool={_target_: somebody.Mine}", name="mine")
    assert OmegaConf.load(run / "config.yaml").allow == []
    again = ("--config-dir=mine", "--config-name=config")
    with pytest.raises(SystemExit):
        train(*again, name="again", small=False)
    assert "allow=[somebody] on the command line" in capsys.readouterr().err
    assert not Path("again").exists()
    train(*again, "allow=[somebody]", name="again", small=False)
    assert isinstance(pv.load("again", pool=Mine()).settings.pool, Pool)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["allow=mine"], {"mine"}),
        (["allow=[mine,yours.Part]", "pool=mixture"], {"mine", "yours.Part"}),
        (["+pool={_target_: a.B, x: {_target_: c.D}}"], {"a.B", "c.D"}),
        (["model.encoder._target_=a.B", "data.network='a.b:c'"], {"a.B", "a.b:c"}),
        (["+likelihood={_target_: some.get, path: a.B}"], {"some.get"}),
        (["data.path=os.system", "--multirun", "seed=0,1", "nonsense=[", "word"], set()),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_the_users_own_word_is_what_the_arguments_say(
    arguments: list[str], names: set[str]
) -> None:
    assert named_by_the_user(arguments) == names


@pytest.mark.parametrize("key", ["network", "features", "_args_"])
def test_the_import_path_of_a_network_is_code(key: str) -> None:
    value = ["somebody:net"] if key == "_args_" else "somebody:net"
    config = {"_target_": "pyro_vmtl.data.office_home", key: value}
    with pytest.raises(pv.InputError, match=r"names somebody:net, .*allow=\[somebody\]"):
        check_names_of_code(config, "data")
    check_names_of_code(config, "data", {"somebody"})
    for harmless in ("vgg16", "C:/images", "a column: b", ["a:b"]):
        if key != "_args_":
            check_names_of_code({"_target_": "pyro_vmtl.data.office_home", key: harmless}, "data")


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "os.remove", "subprocess.run", "builtins.exec", "shutil.rmtree"),
        *("pandas.read_pickle", "joblib.load", "torch.load", "torch.hub.load", "pickle.loads"),
        *("numpy.load", "runpy.run_path", "cProfile.run", "importlib.import_module"),
        *("hydra.utils.call", "hydra.utils.instantiate", "hydra.utils.get_class"),
        *("webbrowser.open", "pty.spawn"),
        *("pyro_vmtl.data.tables.pd.read_pickle", "pyro_vmtl.train.main", "pyro_vmtl.data"),
        *("pyro_vmtl..os.system", "pyro_vmtl.model.build.copy.deepcopy", "", "os", ".os.system"),
    ],
)
def test_names_of_code_elsewhere_are_refused(name: str) -> None:
    for config in ({"_target_": name}, {"a": [{"b": {"_target_": name}}]}):
        with pytest.raises(InputError, match="which is not of this library"):
            check_names_of_code(config, "data")


def test_every_configuration_of_the_library_is_its_own() -> None:
    for path in config_folder().rglob("*.yaml"):
        check_names_of_code(OmegaConf.to_container(OmegaConf.load(path)), path.stem)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        read_plan(compose("train", ["data=clusters", "recipe=paper", "experiment=x"]))
