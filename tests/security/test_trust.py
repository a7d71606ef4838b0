"""A model is the one that was meant: by digest, by list; what is proved is what is loaded."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import onnx_models
import pytest
from click.testing import CliRunner, Result

from matseg_runtime.cli.model import inspect_main, verify_main
from matseg_runtime.cli.run import run_main
from matseg_runtime.inference import providers
from matseg_runtime.inference.session import Session
from matseg_runtime.model import zoo
from matseg_runtime.model.file import choose_model, read_model
from matseg_runtime.model.trust import LIST_VARIABLE, Trust, read_digests, trust_of
from matseg_runtime.model.zoo import read_index
from matseg_shared.errors import ModelError, UsageError

ZOO = Path(__file__).parents[2] / "models_zoo"


def call(command: Any, *arguments: object, **more: Any) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], **more)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def mine(tmp_path: Path, model: Path) -> Path:
    """A model in a folder of its own, which tests may change."""
    path = tmp_path / "models" / "steel.onnx"
    path.parent.mkdir()
    shutil.copyfile(model, path)
    return path


def refuse(model: Path, *options: object, text: str) -> None:
    """All commands that load a model say the same, and write nothing."""
    slices = model.parent.parent / "scan"
    if not slices.exists():
        slices.mkdir()
        from PIL import Image

        Image.fromarray(onnx_models.random_pixels((20, 20), "uint8")).save(slices / "a.png")
    before = set(model.parent.parent.rglob("*"))
    for command, arguments in ((inspect_main, ()), (verify_main, ()), (run_main, (slices,))):
        result = call(command, model, *arguments, *options)
        assert result.exit_code == 2, result.output
        assert text in result.stderr, result.stderr
        assert result.stderr.count("\n") == 1
    assert set(model.parent.parent.rglob("*")) == before


# digests and lists


def test_a_digest_is_compared_before_anything_is_loaded(mine: Path) -> None:
    result = call(verify_main, mine, "--sha256", digest(mine).upper())
    assert result.exit_code == 0
    assert "trusted: SHA-256 as expected (--sha256)" in result.output
    refuse(mine, "--sha256", "0" * 64, text=f"expected SHA-256 {'0' * 64} (--sha256), found {digest(mine)}")


@pytest.mark.parametrize("line", ["{0}  steel.onnx", "{0} *steel.onnx", "SHA256 (models/steel.onnx) = {0}"])
def test_lists_are_what_sha256sum_writes(line: str, mine: Path, tmp_path: Path) -> None:
    listing = tmp_path / "SHA256SUMS"
    listing.write_text(f"# released models\n\n{'1' * 64}  other.onnx\n{line.format(digest(mine))}\n")
    assert call(verify_main, mine, "--sha256", listing).exit_code == 0
    listing.write_text(f"{'1' * 64}  other.onnx\n")
    refuse(mine, "--sha256", listing, text=f"is not on the list of models {listing}")


def test_a_model_that_is_listed_under_another_name_is_not_this_one(mine: Path, tmp_path: Path) -> None:
    """Both are trusted; but who asks for `steel.onnx` does not mean `bronze.onnx`."""
    listing = tmp_path / "SHA256SUMS"
    listing.write_text(f"{digest(mine)}  bronze.onnx\n{'1' * 64}  steel.onnx\n")
    refuse(mine, "--sha256", listing, text=f"expected SHA-256 {'1' * 64}, as listed for steel.onnx")
    listing.write_text(f"{digest(mine)}  bronze.onnx\n")
    assert call(verify_main, mine, "--sha256", listing).exit_code == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hello\n", "line 1 (--sha256): expected a SHA-256 digest"),
        (f"{'1' * 63}  steel.onnx\n", "line 1 (--sha256): expected a SHA-256 digest"),
        (f"{'1' * 64}\n", "line 1 (--sha256): expected a SHA-256 digest"),
        ("\ud800", "cannot be read"),
        ("", "is not on the list"),
    ],
)
def test_lists_with_anything_else_in_them_trust_nothing(
    text: str, found: str, mine: Path, tmp_path: Path
) -> None:
    listing = tmp_path / "SHA256SUMS"
    listing.write_bytes(text.encode(errors="surrogatepass"))
    refuse(mine, "--sha256", listing, text=found)


@pytest.mark.parametrize("text", ["abc", "0" * 63, "0" * 65, "g" * 64, ""])
def test_what_is_no_digest_and_no_list_is_refused(text: str, mine: Path) -> None:
    refuse(mine, "--sha256", text, text="expected 64 hexadecimal digits, or a file that lists them")


# the site's policy


def test_a_sites_list_holds_beside_what_the_user_asks_for(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's option adds to the policy; none of them replaces it."""
    listing = tmp_path / "SHA256SUMS"
    listing.write_text(f"{'1' * 64}  other.onnx\n")
    monkeypatch.setenv(LIST_VARIABLE, str(listing))
    for options in ((), ("--sha256", digest(mine))):
        refuse(mine, *options, text=f"is not on the list of models {listing} ({LIST_VARIABLE})")
    with pytest.raises(ModelError, match="is not on the list"):
        Session.open(mine)  # whoever opens one: the trainer, a worker, a program of one's own
    listing.write_text(f"{digest(mine)}  steel.onnx\n")
    assert call(verify_main, mine, "--sha256", digest(mine)).output.count("trusted: ") == 2


def test_a_policy_that_is_not_there_is_not_no_policy(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "gone", tmp_path / "empty"):
        monkeypatch.setenv(LIST_VARIABLE, str(place))
        refuse(mine, text=LIST_VARIABLE)


def test_a_policy_of_signatures_is_not_passed_over(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were verified once; a site that still asks for them must hear that they no longer are."""
    monkeypatch.setenv("MATSEG_TRUSTED_KEYS", str(tmp_path))
    refuse(mine, text="signatures of models are no longer verified")


def test_a_policy_holds_for_the_trainers_commands_and_not_for_what_they_make(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matseg_trainer.export.export import exported_before

    listing = tmp_path / "SHA256SUMS"
    listing.write_text("")
    monkeypatch.setenv(LIST_VARIABLE, str(listing))
    with pytest.raises(ModelError, match="is not on the list"):
        Session.open(mine, provider="cpu")
    from checkpoints import make_checkpoint

    with pytest.raises(UsageError, match="as it is trained now"):  # it was opened, and is of another training
        exported_before(mine, make_checkpoint("unet"), "fp32", 1)


def test_evaluating_a_model_asks_for_the_same(mine: Path, tmp_path: Path) -> None:
    from matseg_trainer.commands.evaluate import evaluate_main

    (tmp_path / "data" / "alloy" / "test" / "images").mkdir(parents=True)
    arguments = ("alloy", "v1", "--workspace", tmp_path)
    result = call(evaluate_main, *arguments, "--model", mine, "--sha256", "0" * 64)
    assert result.exit_code == 2
    assert f"expected SHA-256 {'0' * 64} (--sha256)" in result.stderr
    result = call(evaluate_main, *arguments, "--sha256", "0" * 64)
    assert result.exit_code == 2
    assert "--sha256 applies with --model only" in result.stderr


# what is proved is what is loaded


def test_a_file_replaced_after_it_was_proved_changes_nothing(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read once: the bytes that were proved are handed to onnxruntime."""
    before, load = digest(mine), providers.load_onnxruntime

    def replaced() -> Any:
        mine.write_bytes(b"something else")
        return load()

    monkeypatch.setattr(providers, "load_onnxruntime", replaced)
    session = Session.open(mine, provider="cpu", threads=1, trust=trust_of(before))
    assert mine.read_bytes() == b"something else"
    assert session.model.sha256 == before
    assert session.self_test().passed


@pytest.fixture
def zoo_model(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model as the only one of a zoo, zoo:steel."""
    entry = read_index().models[0].model_copy(update={"sha256": digest(mine), "name": "steel"})
    monkeypatch.setattr(zoo, "read_index", lambda: zoo.ZooIndex(models=(entry,)))
    folder = tmp_path / "zoo" / "steel"
    folder.mkdir(parents=True)
    monkeypatch.setenv(zoo.ZOO_VARIABLE, str(tmp_path / "zoo"))
    return Path(shutil.copyfile(mine, folder / "model.onnx"))


def test_a_zoo_model_is_the_indexs_when_it_is_read(zoo_model: Path) -> None:
    path, trust = choose_model("zoo:steel")
    assert path == zoo_model
    expected, before = digest(path), read_model(path, trust)
    assert before.model.proofs == ("SHA-256 as expected (zoo:steel)",)
    onnx_models.save_model(path, seed=1)
    with pytest.raises(ModelError, match=rf"expected the model zoo:steel .*\(SHA-256 {expected}\)"):
        Session.open(path, provider="cpu", threads=1, trust=trust)
    assert Session.open(before, provider="cpu", threads=1).self_test().passed


@pytest.mark.usefixtures("zoo_model")
def test_a_run_reads_its_model_once(slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it opens more than one session, as for one slice on several cores."""
    for path in sorted(slices.iterdir())[1:]:
        path.unlink()
    opened, inner = [], Path.open

    def counted(self: Path, *arguments: Any, **more: Any) -> Any:
        opened.append(self.name)
        return inner(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", counted)
    result = call(run_main, "zoo:steel", slices, "-o", tmp_path / "out", "--threads", 2, "--no-report")
    assert result.exit_code == 0, result.output
    assert opened.count("model.onnx") == 1


def test_nothing_is_asked_for_where_nobody_asks(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIST_VARIABLE, "")
    assert Trust.of_site() == Trust()
    assert "nothing was asked for" in call(inspect_main, mine).output


def test_lists_keep_every_line(tmp_path: Path) -> None:
    listing = tmp_path / "sums"
    listing.write_text(f"{'a' * 64}  a b.onnx\n{'B' * 64} *zoo/model.onnx\n")
    assert read_digests(listing, "x") == (("a" * 64, "a b.onnx"), ("b" * 64, "zoo/model.onnx"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_place_of_a_list_is_not_waited_for(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refuse(mine, "--sha256", pipe, text="found neither")
    monkeypatch.setenv(LIST_VARIABLE, str(pipe))
    refuse(mine, text="found no such file")


def test_the_zoos_own_list_is_one() -> None:
    listed = dict(read_digests(ZOO / "SHA256SUMS", "x"))
    assert listed == {item.sha256: item.file for item in read_index().models}
    assert (
        call(verify_main, ZOO / "tomography-fast/model.onnx", "--sha256", ZOO / "SHA256SUMS").exit_code == 0
    )
