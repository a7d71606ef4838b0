"""A model is the one that was meant: by digest, by list, by signature; what is proved is what is loaded."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_models
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from matseg_runtime.cli.model import inspect_main, verify_main
from matseg_runtime.cli.run import run_main
from matseg_runtime.cli.sign import sign_main
from matseg_runtime.inference import providers
from matseg_runtime.inference.session import Session
from matseg_runtime.model import zoo
from matseg_runtime.model.signature import read_public_key, sign, verify
from matseg_runtime.model.trust import KEYS_VARIABLE, LIST_VARIABLE, Trust, read_digests
from matseg_runtime.model.zoo import choose_model, read_index
from matseg_runtime.run import setup as prepare
from matseg_runtime.run.options import RunOptions
from matseg_shared.errors import ModelError, UsageError
from matseg_shared.installation import install_command

REFERENCE = Path(__file__).parent / "reference"
ZOO = Path(__file__).parents[2] / "models_zoo"
PASSWORD = "correct horse"


def call(command: Any, *arguments: object, **more: Any) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], **more)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_key(folder: Path, name: str, key: Any, password: str | None = None) -> tuple[Path, Path]:
    """(private, public) PEM files."""
    lock = (
        serialization.NoEncryption()
        if password is None
        else serialization.BestAvailableEncryption(password.encode())
    )
    private, public = folder / f"{name}.key", folder / f"{name}.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.fixture
def mine(tmp_path: Path, model: Path) -> Path:
    """A model in a folder of its own, which tests may change."""
    path = tmp_path / "models" / "steel.onnx"
    path.parent.mkdir()
    shutil.copyfile(model, path)
    return path


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key."""
    return write_key(tmp_path, "group", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def signed(mine: Path, keys: tuple[Path, Path]) -> Path:
    """The model with its signature."""
    result = call(sign_main, mine, "--key", keys[0])
    assert result.exit_code == 0, result.output
    return mine


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


# signatures


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_a_signed_model_is_loaded(curve: ec.EllipticCurve, mine: Path, tmp_path: Path, slices: Path) -> None:
    private, public = write_key(tmp_path, "group", ec.generate_private_key(curve))
    done = call(sign_main, mine, "--key", private, "--json")
    assert json.loads(done.stdout) == {
        "model": str(mine),
        "sha256": digest(mine),
        "signature": f"{mine}.sig",
    }
    assert f"signed with {public}" in call(verify_main, mine, "--trusted-key", public).output
    result = call(run_main, mine, slices, "-o", tmp_path / "out", "--trusted-key", public)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["model_proofs"] == [f"signed with {public} (--trusted-key)"]


def test_a_missing_signature_is_none(mine: Path, keys: tuple[Path, Path]) -> None:
    refuse(
        mine, "--trusted-key", keys[1], text="has no signature, and one by a trusted key is asked for here"
    )


def test_a_changed_model_is_refused(signed: Path, keys: tuple[Path, Path]) -> None:
    content = bytearray(signed.read_bytes())
    content[len(content) // 2] ^= 1
    signed.write_bytes(content)
    refuse(signed, "--trusted-key", keys[1], text="is not the file that was signed")


def test_another_models_signature_is_refused(signed: Path, keys: tuple[Path, Path]) -> None:
    other = onnx_models.save_model(signed.with_name("bronze.onnx"), seed=1)
    shutil.copyfile(f"{signed}.sig", f"{other}.sig")
    refuse(other, "--trusted-key", keys[1], text="is not the file that was signed")


def test_another_key_is_refused_and_one_of_several_will_do(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    _, stranger = write_key(tmp_path, "stranger", ec.generate_private_key(ec.SECP384R1()))
    refuse(signed, "--trusted-key", stranger, text="is no signature by a trusted key")
    result = call(verify_main, signed, "--trusted-key", stranger, "--trusted-key", keys[1])
    assert result.exit_code == 0
    assert f"signed with {keys[1]}" in result.output


def edited(signature: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(signature.read_text())
    change(document)
    signature.write_text(json.dumps(document))


def other_statement(document: dict[str, Any]) -> None:
    """Another file's digest under the same signature: what a forger would like."""
    envelope = document["dsseEnvelope"]
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["predicate"]["resources"][0]["digest"] = "0" * 64
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()


def other_signature(document: dict[str, Any]) -> None:
    found = document["dsseEnvelope"]["signatures"][0]
    content = bytearray(base64.b64decode(found["sig"]))
    content[-1] ^= 1
    found["sig"] = base64.b64encode(content).decode()


TAMPERED = {
    "another statement": (other_statement, "is no signature by a trusted key"),
    "another signature": (other_signature, "is no signature by a trusted key"),
    "no signature": (
        lambda d: d["dsseEnvelope"]["signatures"].clear(),
        "expected a signature as matseg-sign",
    ),
    "two signatures": (
        lambda d: d["dsseEnvelope"]["signatures"].append({"sig": "AA=="}),
        "expected a signature as matseg-sign",
    ),
    "another payload type": (
        lambda d: d["dsseEnvelope"].update(payloadType="text/plain"),
        "expected a signature as matseg-sign",
    ),
    "no base64": (lambda d: d["dsseEnvelope"].update(payload="*"), "expected a signature as matseg-sign"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_signatures_are_refused(name: str, signed: Path, keys: tuple[Path, Path]) -> None:
    change, text = TAMPERED[name]
    edited(Path(f"{signed}.sig"), change)
    refuse(signed, "--trusted-key", keys[1], text=text)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff" * 10, b"[" * 100_000, b"x" * (1 << 21)])
def test_files_that_are_no_signatures_are_refused(
    content: bytes, mine: Path, keys: tuple[Path, Path]
) -> None:
    Path(f"{mine}.sig").write_bytes(content)
    refuse(mine, "--trusted-key", keys[1], text="expected a signature")


def test_statements_of_other_things_are_no_signatures_of_models(
    mine: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key may sign containers, too; what it says of those is no word on a model."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://slsa.dev/provenance/v1",
    }
    monkeypatch.setattr("matseg_runtime.model.signature._statement", lambda *_: statement)
    Path(f"{mine}.sig").write_bytes(sign("steel.onnx", digest(mine), keys[0]))
    refuse(mine, "--trusted-key", keys[1], text="signs something else than one model file")


def test_keys_of_other_kinds_are_refused(mine: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    kinds = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ed": ed25519.Ed25519PrivateKey.generate(),
        "koblitz": ec.generate_private_key(ec.SECP256K1()),
    }
    for name, key in kinds.items():
        private, public = write_key(tmp_path, name, key)
        for result in (
            call(sign_main, mine, "--key", private),
            call(verify_main, mine, "--trusted-key", public),
        ):
            assert result.exit_code == 2
            expected = "has no signature" if "--trusted" in result.stderr else "P-256, P-384 or P-521"
            assert expected in result.stderr
    private, public = keys
    for result in (call(sign_main, mine, "--key", public), call(sign_main, mine, "--key", tmp_path / "none")):
        assert result.exit_code == 2
        assert "expected a private key (PEM)" in result.stderr
    assert not Path(f"{mine}.sig").exists()
    for bad in (private, tmp_path / "none", tmp_path):
        result = call(verify_main, mine, "--trusted-key", bad)
        assert result.exit_code == 2
        assert "expected a public key (PEM" in result.stderr


def test_a_key_with_a_password_asks_for_it(mine: Path, tmp_path: Path) -> None:
    private, public = write_key(tmp_path, "locked", ec.generate_private_key(ec.SECP256R1()), PASSWORD)
    assert call(sign_main, mine, "--key", private, input="wrong\n").exit_code == 2
    result = call(sign_main, mine, "--key", private, input=f"{PASSWORD}\n")
    assert result.exit_code == 0
    assert PASSWORD not in result.output
    assert call(verify_main, mine, "--trusted-key", public).exit_code == 0


def test_only_models_are_signed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("hello")
    assert call(sign_main, path, "--key", keys[0]).exit_code == 2
    assert not Path(f"{path}.sig").exists()


def test_signatures_of_the_reference_implementation_are_read() -> None:
    """`model_signing sign key` 1.1.1 of the OpenSSF wrote the file; only its fields are ours, too."""
    key = read_public_key(REFERENCE / "pub.pem")
    model = REFERENCE / "steel.onnx"
    assert verify(model, digest(model), (key,)) is key
    with pytest.raises(ModelError, match="is not the file that was signed"):
        verify(model, "0" * 64, (key,))


def test_our_signatures_have_what_the_reference_reads(keys: tuple[Path, Path]) -> None:
    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shape(item) for name, item in value.items()}
        return [shape(item) for item in value[:1]] if isinstance(value, list) else type(value).__name__

    theirs = json.loads((REFERENCE / "steel.onnx.sig").read_text())
    ours = json.loads(sign("steel.onnx", digest(REFERENCE / "steel.onnx"), keys[0]))
    assert shape(ours) == shape(theirs)
    payloads = [json.loads(base64.b64decode(item["dsseEnvelope"]["payload"])) for item in (ours, theirs)]
    for payload in payloads:
        del payload["predicate"]["serialization"]["ignore_paths"]
    assert payloads[0] == payloads[1]


# the site's policy


def test_a_sites_keys_are_asked_for_by_every_command(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    shutil.copyfile(keys[1], folder / "group.pem")
    monkeypatch.setenv(KEYS_VARIABLE, str(folder))
    assert f"signed with {folder / 'group.pem'} ({KEYS_VARIABLE})" in call(verify_main, signed).output
    Path(f"{signed}.sig").unlink()
    refuse(signed, text="has no signature")
    with pytest.raises(ModelError, match="has no signature"):
        Session.open(signed)  # whoever opens one: the trainer, a worker, a program of one's own


def test_a_sites_list_holds_beside_what_the_user_asks_for(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's option adds to the policy; none of them replaces it."""
    listing = tmp_path / "SHA256SUMS"
    listing.write_text(f"{'1' * 64}  other.onnx\n")
    monkeypatch.setenv(LIST_VARIABLE, str(listing))
    for options in ((), ("--sha256", digest(signed)), ("--trusted-key", keys[1])):
        refuse(signed, *options, text=f"is not on the list of models {listing} ({LIST_VARIABLE})")
    listing.write_text(f"{digest(signed)}  steel.onnx\n")
    assert call(verify_main, signed, "--trusted-key", keys[1]).output.count("trusted: ") == 2


@pytest.mark.parametrize("variable", [LIST_VARIABLE, KEYS_VARIABLE])
def test_a_policy_that_is_not_there_is_not_no_policy(
    variable: str, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "gone", tmp_path / "empty"):
        monkeypatch.setenv(variable, str(place))
        refuse(mine, text=variable)


def test_a_policy_holds_for_the_trainers_commands_and_not_for_what_they_make(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matseg_trainer.export.existing import exported_before

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
    signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read once: the bytes that were verified are handed to onnxruntime."""
    before, load = digest(signed), providers.load_onnxruntime

    def replaced() -> Any:
        signed.write_bytes(b"something else")
        return load()

    monkeypatch.setattr(providers, "load_onnxruntime", replaced)
    from matseg_runtime.model.trust import trust_of

    session = Session.open(signed, provider="cpu", threads=1, trust=trust_of(None, [keys[1]]))
    assert signed.read_bytes() == b"something else"
    assert session.model.sha256 == before
    assert session.self_test().passed


def test_a_run_opens_the_same_file_twice_or_not_at_all(mine: Path) -> None:
    """It opens the model once more when memory is short, or a provider fails; the first was self-tested."""
    options = RunOptions(model=mine, input="")
    first = prepare._open_session(options, "cpu", 1)
    assert prepare._open_session(options, "cpu", 1, first.model).model.sha256 == first.model.sha256
    onnx_models.save_model(mine, seed=1)
    with pytest.raises(ModelError, match="when this run began"):
        prepare._open_session(options, "cpu", 1, first.model)


def test_a_zoo_model_is_still_the_indexs_when_it_is_read(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = read_index().models[0].name
    entry = read_index().models[0].model_copy(update={"sha256": digest(mine)})
    index = zoo.ZooIndex(models=(entry,))
    monkeypatch.setattr(zoo, "read_index", lambda: index)
    folder = tmp_path / "zoo" / name
    folder.mkdir(parents=True)
    shutil.copyfile(mine, folder / "model.onnx")
    monkeypatch.setenv(zoo.ZOO_VARIABLE, str(tmp_path / "zoo"))
    path, trust = choose_model(f"zoo:{name}", None, ())
    assert Session.open(path, provider="cpu", threads=1, trust=trust).model.proofs == (
        f"SHA-256 as expected (zoo:{name})",
    )
    onnx_models.save_model(path, seed=1)
    with pytest.raises(ModelError, match=f"expected SHA-256 {digest(mine)}"):
        Session.open(path, provider="cpu", threads=1, trust=trust)


def test_nothing_is_asked_for_where_nobody_asks(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    monkeypatch.setenv(LIST_VARIABLE, "")
    assert Trust.of_site() == Trust()
    assert "nothing was asked for" in call(inspect_main, mine).output


def test_lists_keep_every_line(tmp_path: Path) -> None:
    listing = tmp_path / "sums"
    listing.write_text(f"{'a' * 64}  a b.onnx\n{'B' * 64} *zoo/model.onnx\n")
    assert read_digests(listing, "x") == (("a" * 64, "a b.onnx"), ("b" * 64, "zoo/model.onnx"))


def test_without_the_extra_signatures_are_an_error_that_names_it(
    mine: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not asking for cryptography is no way around it."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ec", None)
    for result in (
        call(sign_main, mine, "--key", keys[0]),
        call(verify_main, mine, "--trusted-key", keys[1]),
    ):
        assert result.exit_code == 3
        assert install_command("sign") in result.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_in_the_place_of_lists_keys_and_signatures_are_not_waited_for(
    mine: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    os.mkfifo(f"{mine}.sig")
    refuse(mine, "--sha256", pipe, text="found neither")
    refuse(mine, "--trusted-key", pipe, text="expected a public key (PEM), found no such file")
    refuse(mine, "--trusted-key", keys[1], text="expected a signature, found no such file")
    monkeypatch.setenv(LIST_VARIABLE, str(pipe))
    refuse(mine, text="found no such file")


def test_the_zoos_own_list_is_one() -> None:
    listed = dict(read_digests(ZOO / "SHA256SUMS", "x"))
    assert listed == {item.sha256: item.file for item in read_index().models}
    assert (
        call(verify_main, ZOO / "tomography-fast/model.onnx", "--sha256", ZOO / "SHA256SUMS").exit_code == 0
    )
