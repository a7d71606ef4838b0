"""`config.toml`: the guide's versions key for key, and errors that list everything at once."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from matseg_shared.errors import ConfigError
from matseg_trainer.config.load import Config, load_config, parse_config
from matseg_trainer.config.versions import VersionConfig, config_differences

ROOT = Path(__file__).parents[3]
SOURCE = Path("config.toml")
GUIDE_DEFAULTS = {
    "batch_size": 4,
    "optimizer": "Adam",
    "lr": 1e-4,
    "epoch": 40,
    "aug": False,
    "shuffle": False,
    "patience": 0,
    "balance": False,
}
# Ours must be off in the guide's versions, so that these mean what the guide says.
OURS_OFF = {
    "width": None,
    "crop": None,
    "crops_per_image": 1,
    "schedule": "plateau",
    "amp": "auto",
    "seed": 0,
}
GUIDE_VERSIONS: dict[str, dict[str, dict[str, Any]]] = {
    "tomography": {
        "v1": {"model": "pixelnet"},
        "v2": {"model": "unet", "epoch": 1},
        "v3": {"model": "segnet", "optimizer": "SGD", "lr": 0.01},
        "v4": {"model": "pixelnet", "aug": True, "balance": True},
        "v5": {"model": "unet", "aug": True, "balance": True},
        "v6": {"model": "segnet", "aug": True, "optimizer": "SGD", "lr": 0.01, "balance": True},
        "v7": {"model": "unet", "epoch": 4, "lr": 0.001, "aug": True},
    },
    "uhcs": {
        "v1": {"model": "pixelnet"},
        "v2": {"model": "unet"},
        "v3": {"model": "segnet", "optimizer": "SGD", "lr": 0.01},
        "v4": {"model": "pixelnet", "aug": True},
        "v5": {"model": "unet", "aug": True},
        "v6": {"model": "segnet", "aug": True, "optimizer": "SGD", "lr": 0.01},
    },
}
GUIDE_SETS = {"tomography": {"n_class": 2, "size": (852, 852)}, "uhcs": {"n_class": 4, "size": (484, 645)}}


@pytest.fixture(scope="module")
def shipped() -> Config:
    return load_config(ROOT / "config.toml")


def one_version(**keys: Any) -> VersionConfig:
    document = {"set": {"v1": {"model": "unet", "n_class": 2, **keys}}}
    return parse_config(document, SOURCE).version("set", "v1")


def problems(document: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(document, SOURCE)
    found = caught.value.problems
    assert all(str(problem) in str(caught.value) for problem in found)
    return {problem.where: problem.message for problem in found}


@pytest.mark.parametrize(
    ("dataset", "version"), [(dataset, name) for dataset, named in GUIDE_VERSIONS.items() for name in named]
)
def test_the_guides_versions_are_the_guides(shipped: Config, dataset: str, version: str) -> None:
    expected = GUIDE_DEFAULTS | OURS_OFF | GUIDE_SETS[dataset] | GUIDE_VERSIONS[dataset][version]
    found = shipped.version(dataset, version).model_dump()
    assert {key: found[key] for key in expected} == expected


def test_our_versions_stand_next_to_the_guides(shipped: Config) -> None:
    assert list(shipped.versions) == ["tomography", "uhcs", "sandstone", "demo"]
    assert list(shipped.versions["tomography"]) == [f"v{number}" for number in range(1, 11)]
    assert list(shipped.versions["uhcs"]) == [f"v{number}" for number in (*range(1, 8), 9, 10)]
    networks = {name: version.model for name, version in shipped.versions["demo"].items()}
    assert networks == {"v1": "unet", "v2": "segnet", "v3": "pixelnet"}
    ours = [shipped.version("tomography", "v8"), shipped.version("uhcs", "v7"), shipped.version("demo", "v1")]
    assert all(version.width and version.crop and version.schedule == "cosine" for version in ours)


def test_patience_is_the_number_of_epochs_unless_given() -> None:
    assert one_version(epoch=7).effective_patience == 7
    assert one_version(epoch=7, patience=3).effective_patience == 3


def test_a_version_overrides_its_data_sets_defaults() -> None:
    document = {"set": {"default": {"n_class": 3, "lr": 0.1, "model": "segnet"}, "v1": {"lr": 0.2}, "v2": {}}}
    config = parse_config(document, SOURCE)
    assert (config.version("set", "v1").lr, config.version("set", "v2").lr) == (0.2, 0.1)
    assert config.version("set", "v2").model == "segnet"


@pytest.mark.parametrize(
    ("key", "written", "read"),
    [
        ("model", "UNET", "unet"),
        ("model", "PixelNet", "pixelnet"),
        ("optimizer", "adam", "Adam"),
        ("optimizer", "sgd", "SGD"),
        ("size", 852, (852, 852)),
        ("size", [484, 645], (484, 645)),
        ("lr", 1, 1.0),
        ("validation_images", ["a", "b"], ("a", "b")),
        ("validation_images", [], ()),
    ],
)
def test_accepted_spellings(key: str, written: object, read: object) -> None:
    found = getattr(one_version(**{key: written}), key)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("model", "unett", "did you mean 'unet'?"),
        ("model", 3, "found 3"),
        ("optimizer", "Adamax", "'Adam', 'SGD' or 'AdamW', found 'Adamax'"),
        ("batch_size", True, "found true"),
        ("batch_size", 0, "greater than or equal to 1, found 0"),
        ("batch_size", 4.0, "found 4.0"),
        ("batch_size", "4", "found '4'"),
        ("aug", 1, "found 1"),
        ("aug", "zoom", "expected true, false or \"turns\", found 'zoom'"),
        ("checkpoint", "first", "'best' or 'last', found 'first'"),
        ("aug", "true", "found 'true'"),
        ("lr", True, "found true"),
        ("lr", 0, "greater than 0, found 0"),
        ("lr", float("inf"), "finite number, found inf"),
        ("lr", float("nan"), "found nan"),
        ("lr", 10**400, "found a whole number of 1329 bits"),
        pytest.param("seed", 10**5000, "found a whole number of 16610 bits", id="endless"),
        ("n_class", 1, "greater than or equal to 2, found 1"),
        ("n_class", 256, "less than or equal to 255, found 256"),
        ("size", [852], "expected [height, width] in pixels, or one number for square images, found [852]"),
        ("size", [0, 0], "greater than or equal to 1, found [0, 0]"),
        ("size", 852.0, "expected [height, width]"),
        ("size", True, "expected [height, width]"),
        ("momentum", 1.0, "less than 1, found 1.0"),
        ("steps", 0, "greater than or equal to 1, found 0"),
        ("validation_images", "a", "expected different names of images without suffix"),
        ("validation_images", ["a", "a"], "expected different names of images without suffix"),
    ],
)
def test_a_bad_value_is_named_with_its_place(key: str, value: object, part: str) -> None:
    found = problems({"set": {"v1": {"model": "unet", "n_class": 2, key: value}}})
    assert list(found) == [f"set.v1.{key}"]
    assert part in found[f"set.v1.{key}"]


def test_all_problems_of_all_tables_at_once() -> None:
    found = problems(
        {
            "one": {"default": {"n_class": 2, "batchsize": 4}, "v1": {"model": "unet"}, "v2": {"epoch": 0}},
            "two": {"n_class": 2, "v1": {"model": "unet", "n_class": 2}},
            "three": 3,
            "a/b": {"v1": {"model": "unet", "n_class": 2}},
        }
    )
    assert list(found) == [
        "one.default.batchsize",
        "one.v2.model",
        "one.v2.epoch",
        "two.n_class",
        "three",
        "'a/b'",
    ]
    assert "did you mean 'batch_size'?" in found["one.default.batchsize"]
    assert "one of unet, segnet, pixelnet" in found["one.v2.model"]
    assert "move it into [two.default]" in found["two.n_class"]


def test_a_mistake_in_the_defaults_is_reported_once_and_not_for_every_version() -> None:
    versions = {f"v{number}": {"model": "unet"} for number in range(1, 8)}
    assert list(problems({"set": {"default": {"lr": -1}, **versions}})) == [
        "set.default.n_class",
        "set.default.lr",
    ]
    overridden = {"set": {"default": {"n_class": 2, "lr": -1}, "v1": {"model": "unet", "lr": -2}}}
    assert list(problems(overridden)) == ["set.default.lr", "set.v1.lr"]


def test_n_class_may_stand_in_the_versions() -> None:
    document = {"set": {"v1": {"model": "unet", "n_class": 2}, "v2": {"model": "unet"}}}
    assert list(problems(document)) == ["set.v2.n_class"]


def test_a_data_set_with_defaults_only() -> None:
    config = parse_config({"set": {"default": {"n_class": 2}}}, SOURCE)
    with pytest.raises(ConfigError, match="data set 'set' has no version 'v1'; known: none"):
        config.version("set", "v1")
    assert list(problems({"set": {"default": {}}})) == ["set.default.n_class"]


def test_a_version_takes_what_it_does_not_say_from_its_base() -> None:
    document = {
        "set": {
            "default": {"n_class": 3, "lr": 0.1, "width": 8},
            "v1": {"base": "v2", "epoch": 5},
            "v2": {"base": "v3", "lr": 0.2, "epoch": 4},
            "v3": {"model": "segnet", "crop": 32, "keep": "last"},
            "auto": {"model": "effunet", "steps": 40},
            "mine": {"preset": "auto", "epoch": 7},
        }
    }
    config = parse_config(document, SOURCE)
    expected = {"n_class": 3, "width": 8, "model": "segnet", "crop": 32, "lr": 0.2, "checkpoint": "last"}
    assert config.version("set", "v1") == one_version(**expected, epoch=5)
    assert config.version("set", "v2") == one_version(**expected, epoch=4)
    mine = config.version("set", "mine")
    assert (mine.model, mine.steps, mine.epoch, mine.lr) == ("effunet", 40, 7, 0.1)


def test_the_preset_of_2020_is_what_a_version_of_the_guide_has(shipped: Config) -> None:
    """Whatever the defaults of the data set say of training, and nothing else."""
    default = {"n_class": 2, "size": 852, "crop": 64, "lr": 0.5, "crop_bottom": 3, "loss": "dice"}
    document = {
        "tomography": {"default": default, "v2": {"preset": "guide2020", "model": "unet", "epoch": 1}}
    }
    found = parse_config(document, SOURCE).version("tomography", "v2")
    assert found == shipped.version("tomography", "v2").model_copy(update={"crop_bottom": 3})


@pytest.mark.parametrize(
    ("tables", "place", "words"),
    [
        ({"v1": {"base": "v9"}, "v8": {}}, "v1.base", "found 'v9'; known: v1, v8"),
        ({"v1": {"base": 3}}, "v1.base", "expected another version of this data set, found 3"),
        ({"v1": {"base": "v1"}}, "v1.base", "cannot inherit from itself: v1 -> v1"),
        (
            {"v1": {"base": "v2"}, "v2": {"base": "v1"}},
            "v2.base",
            "cannot inherit from itself: v1 -> v2 -> v1",
        ),
        ({"v1": {"preset": "2020"}}, "v1.preset", 'expected "auto" or "guide2020", found \'2020\''),
        ({"v1": {"base": "v2", "preset": "auto"}, "v2": {}}, "v1.base", "stands beside `preset`"),
        ({"default": {"base": "v1"}, "v1": {}}, "default.base", "move it into one version"),
        ({"v1": {"base": "v2"}, "v2": {"lr": -1}}, "v2.lr", "greater than 0"),
    ],
)
def test_what_cannot_be_inherited_is_named_with_its_place(
    tables: dict[str, dict[str, Any]], place: str, words: str
) -> None:
    named = {name: {"model": "unet", "n_class": 2, **table} for name, table in tables.items()}
    found = problems({"set": named})
    assert words in found[f"set.{place}"]
    assert len(found) == (2 if "cannot inherit" in words and len(tables) > 1 else 1)


def test_a_version_whose_plan_is_not_made_yet_holds_up_itself_alone() -> None:
    tables = {
        "mine": {"preset": "auto", "lr": 0.1},
        "heir": {"base": "mine"},
        "v1": {"model": "unet", "n_class": 2},
    }
    config = parse_config({"steel": tables}, SOURCE)
    assert config.version("steel", "v1").model == "unet"
    for name in ("mine", "heir"):
        with pytest.raises(
            ConfigError, match=f"steel.{name} starts .* not made yet; .*`matseg-prep config steel`"
        ):
            config.version("steel", name)
    planned = {**tables, "auto": {"model": "effunet", "encoder": "lite0", "n_class": 3}}
    assert parse_config({"steel": planned}, SOURCE).version("steel", "heir").lr == 0.1


def test_what_a_missing_base_would_give_is_not_missed() -> None:
    """n_class comes with the plan, which is not made yet."""
    assert parse_config({"set": {"v1": {"preset": "auto"}}}, SOURCE).versions == {"set": {}}
    assert list(problems({"set": {"v1": {"preset": "guide2020", "model": "unet"}}})) == ["set.v1.n_class"]


def test_a_version_of_another_network_leaves_the_encoder_that_it_would_inherit() -> None:
    plan = {"model": "effunet", "encoder": "lite0", "encoder_lr": 0.3, "n_class": 3, "steps": 40}
    vgg = {"model": "segnet", "encoder": "vgg16.pth", "encoder_licence": "MIT", "n_class": 3}
    config = parse_config(
        {
            "set": {
                "auto": plan,
                "mine": {"preset": "auto", "model": "UNet"},
                "longer": {"base": "mine", "epoch": 7},
                "narrow": {"preset": "auto", "width": 8},
                "vgg": vgg,
                "pixels": {"base": "vgg", "model": "pixelnet"},
            }
        },
        SOURCE,
    )
    for name in ("mine", "longer"):
        found = config.version("set", name)
        assert (found.model, found.encoder, found.encoder_lr, found.steps) == ("unet", None, 1.0, 40)
    assert config.version("set", "narrow").encoder == "lite0"
    assert config.version("set", "pixels").encoder_licence == "MIT"


def test_an_inherited_key_that_is_wrong_in_the_heir_alone_is_told() -> None:
    tables = {
        "vgg": {"model": "segnet", "encoder": "vgg16.pth", "n_class": 3},
        "v2": {"base": "vgg", "width": 32},
    }
    assert "expected width = 64" in problems({"set": tables})["set.v2.encoder"]


OLD_NAMES = {"repeat": 6, "focus": 0.5, "samples": 99, "keep": "last", "precision": "fp32"}
NEW_NAMES = {
    "crops_per_image": 6,
    "oversample_classes": 0.5,
    "pixels_per_image": 99,
    "checkpoint": "last",
    "amp": "fp32",
}


def test_keys_under_their_earlier_names_are_read_with_one_note() -> None:
    document = {
        "set": {"default": {"n_class": 2, **OLD_NAMES}, "v1": {"model": "unet", "crops_per_image": 7}}
    }
    config = parse_config(document, SOURCE)
    assert config.version("set", "v1") == one_version(**{**NEW_NAMES, "crops_per_image": 7})
    assert config.note is not None
    for old, new in zip(OLD_NAMES, NEW_NAMES, strict=True):
        assert f"`{old}` (now `{new}`)" in config.note
    assert parse_config({"set": {"v1": {"model": "unet", "n_class": 2}}}, SOURCE).note is None
    both = problems({"set": {"v1": {"model": "unet", "n_class": 2, "keep": "last", "checkpoint": "best"}}})
    assert both == {
        "set.v1.keep": "is the earlier name of 'checkpoint', which is there too; leave one of them out"
    }
    assert (
        "found 0"
        in problems({"set": {"v1": {"model": "unet", "n_class": 2, "repeat": 0}}})["set.v1.crops_per_image"]
    )


def test_what_was_trained_under_the_earlier_names_is_the_same_version() -> None:
    trained = {**one_version(**NEW_NAMES).model_dump(mode="json"), **OLD_NAMES}
    for new in NEW_NAMES:
        del trained[new]
    assert config_differences(trained, one_version(**NEW_NAMES)) == []
    assert VersionConfig.model_validate(trained | {"size": None}) == one_version(**NEW_NAMES)
    (difference,) = config_differences(trained, one_version(**NEW_NAMES | {"amp": "bf16"}))
    assert (difference.where, difference.message) == ("amp", "trained with 'fp32', now 'bf16'")


def test_unknown_names_are_answered_with_the_nearest(shipped: Config) -> None:
    with pytest.raises(ConfigError, match=r"no data set 'tomograhy'; did you mean 'tomography'\?"):
        shipped.version("tomograhy", "v1")
    with pytest.raises(ConfigError, match=r"no version 'v99'; .*v7"):
        shipped.version("tomography", "v99")


@pytest.mark.parametrize("name", ["..", "a b ", "C:x", "a\\b", "", "bell\x07"])
def test_names_that_cannot_be_folders(name: str) -> None:
    (message,) = problems({name: {"v1": {"model": "unet", "n_class": 2}}}).values()
    assert "use letters, digits, - and _" in message


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b'\xef\xbb\xbf[set.v1]\r\nmodel = "unet"\r\nn_class = 2\r\n')
    assert load_config(path).version("set", "v1").n_class == 2


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n",
        b"[set.v1\n",
        b"[a]\nx = 1\nx = 2\n",
        b"x = " + b"[" * 20000,
        b"x = " + b"9" * 5000,
    ],
    ids=["binary", "broken", "twice", "nested", "digits"],
)
def test_what_is_not_toml_is_said_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read as TOML: ."):
        load_config(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found nothing; run the command in the folder"):
        load_config(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_the_shipped_file_has_no_key_twice_and_a_comment_for_each_version_of_ours() -> None:
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    assert set(tomllib.loads(text)) == {"tomography", "uhcs", "sandstone", "demo"}
    lines = text.splitlines()
    for table in ("tomography.v8", "uhcs.v7", "demo.v1", "demo.v2", "demo.v3"):
        assert lines[lines.index(f"[{table}]") - 1].startswith("# ")


def test_the_documentation_has_every_key_with_its_default() -> None:
    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    keys_only = text.partition("## When something is wrong")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", keys_only, flags=re.MULTILINE))
    assert list(rows) == list(VersionConfig.model_fields)
    for key, field in VersionConfig.model_fields.items():
        shown = rows[key].strip("`")
        if field.is_required():
            assert shown == "none, must be given"
        elif field.default is not None:
            assert tomllib.loads(f"value = {shown}")["value"] == field.default
            assert rows[key].startswith("`")


def test_an_encoder_is_one_of_its_network() -> None:
    """Also where the data set's defaults name it, and the versions their networks."""
    document = {"set": {"default": {"n_class": 2, "encoder": "lite0"}, "v1": {"model": "effunet"}}}
    assert parse_config(document, SOURCE).version("set", "v1").encoder == "lite0"
    document["set"] |= {"v2": {"model": "unet"}, "v3": {"model": "segnet"}}
    found = problems(document)
    assert found.keys() == {"set.v2.encoder", "set.v3.encoder"}
    assert (
        "effunet, segnet, pixelnet, vggunet: there are no published encoders of unet"
        in found["set.v2.encoder"]
    )
    assert "expected the path of a file with weights of VGG-16" in found["set.v3.encoder"]
    assert one_version(model="vggunet", encoder="vgg16.pth", encoder_licence="MIT").encoder_licence == "MIT"
    document = {"set": {"v1": {"model": "segnet", "n_class": 2, "encoder": "vgg16.pth", "width": 16}}}
    assert "expected width = 64" in problems(document)["set.v1.encoder"]
    document = {
        "set": {"v1": {"model": "effunet", "n_class": 2, "encoder": "lite7", "encoder_licence": "MIT"}}
    }
    assert "the encoders of effunet, found 'lite7'" in problems(document)["set.v1.encoder"]
    document["set"]["v1"]["encoder"] = "lite0"
    assert "of others the licence is known" in problems(document)["set.v1.encoder_licence"]
