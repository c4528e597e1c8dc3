"""Signed images: read back by the C2PA library, with a certificate chain that is made here; and the key stays at home."""

import datetime
import io
import json

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from factory.errors import RecipeError, UserError
from factory.exporters.folder import Folder
from factory.exporters.parquet import Parquet
from factory.exporters.webdataset import WebDataset
from factory.images import decode, encode
from tests.rows import info, make
from tests.test_build import run
from tests.test_export_marks import TRAINED, image_files, parquet_files, source_type, tar_files


def certificate(subject, key, issuer, issuer_key, authority):
    def name(common):
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"), x509.NameAttribute(NameOID.COMMON_NAME, common)])

    uses = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")
    usage = x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **dict.fromkeys(uses, False))
    start = datetime.datetime(2024, 1, 1)
    made = (
        x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@pytest.fixture
def signer(tmp_path):
    """{certificate, key}: a chain of two and its key, as files."""
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    folder = tmp_path / "private-keys"
    folder.mkdir()
    chain = certificate("signer", own, "root", root, False) + certificate("root", root, "root", root, True)
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(pem(own))
    return {"certificate": str(folder / "chain.pem"), "key": str(folder / "key.pem")}


def manifest(data, format):
    """(state, the created action, problems) of a signed file, as the C2PA library reads it."""
    reader = c2pa.Reader(f"image/{format}", io.BytesIO(data))
    found = json.loads(reader.json())
    (actions,) = [one["data"]["actions"] for one in reader.get_active_manifest()["assertions"] if one["label"].startswith("c2pa.actions")]
    return reader.get_validation_state(), actions[0], {one["code"] for one in found.get("validation_status", [])}


@pytest.mark.parametrize(
    ("exporter", "read", "format"), [(Parquet, parquet_files, "png"), (Folder, image_files, "jpeg"), (WebDataset, tar_files, "webp")]
)
def test_signed_images_are_read_back_by_the_library(tmp_path, signer, exporter, read, format):
    export = exporter(image=format, c2pa=signer)
    export.check(frozenset())
    export.write(make(5), info(rows=5), tmp_path / "signed")
    exporter(image=format).write(make(5), info(rows=5), tmp_path / "plain")
    files = read(tmp_path / "signed")
    for signed, plain in zip(files, read(tmp_path / "plain"), strict=True):
        state, action, problems = manifest(signed, format)
        assert state == "Valid" and problems == {"signingCredential.untrusted"}  # nobody knows the chain of a test
        assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", TRAINED)
        assert source_type(signed) == TRAINED and np.array_equal(decode(signed), decode(plain))
        assert len(signed) < len(plain) + 16_000
    tampered = bytearray(files[0])
    tampered[-60 if format == "png" else -20] ^= 1
    assert manifest(bytes(tampered), format)[0] == "Invalid"


def test_a_file_that_is_passed_on_is_not_signed(tmp_path, signer):
    own = encode(next(make())["image"])
    Parquet(c2pa=signer).write([{"id": "x", "label": 0, "bytes": own}], info(), tmp_path / "out")
    assert parquet_files(tmp_path / "out") == [own]


def test_the_key_stays_at_home(tmp_path, signer, write_recipe, capfd):
    export = f"{{kind: folder, c2pa: {{certificate: {signer['certificate']}, key: {signer['key']}}}}}"
    run(write_recipe(export=export), tmp_path / "run")
    heard = "".join(capfd.readouterr())
    secrets = [b"private-keys", b"key.pem", b"chain.pem", (tmp_path / "private-keys" / "key.pem").read_bytes().splitlines()[1]]
    files = [path for path in (tmp_path / "run" / "dataset").rglob("*") if path.is_file()]
    assert len(files) > 20 and manifest(next(p for p in files if p.suffix == ".png").read_bytes(), "png")[0] == "Valid"
    for secret in secrets:
        assert secret.decode() not in heard and not any(secret in path.read_bytes() for path in files)
    assert not any(secrets[-1] in path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())


def test_faults_are_told_before_any_image_is_made_and_never_with_the_key(tmp_path, signer, write_recipe):
    key = pem(ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "other.pem").write_bytes(key)
    for fields, said in (
        ({"key": str(tmp_path / "none.pem")}, "export.c2pa.key: .*none.pem cannot be read"),
        ({"algorithm": "ps256"}, "export.c2pa: cannot sign"),
        ({"key": str(tmp_path / "private-keys" / "chain.pem")}, "export.c2pa: cannot sign"),
    ):
        pairs = ", ".join(f"{name}: {value}" for name, value in {**signer, **fields}.items())
        with pytest.raises(UserError, match=said):
            run(write_recipe(export=f"{{kind: parquet, c2pa: {{{pairs}}}}}"), tmp_path / "run")
    with pytest.raises(RecipeError, match="a key has no place in a recipe") as told:
        run(write_recipe(export=json.dumps({"kind": "parquet", "c2pa": {**signer, "key": key.decode()}})), tmp_path / "run")
    assert key.decode().splitlines()[1] not in str(told.value) and not (tmp_path / "run").exists()
