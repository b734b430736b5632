"""A certificate authority and C2PA signatures made on the spot, with c2pa-python's own signer."""

import datetime
import io
import json
from dataclasses import dataclass

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AI_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
CAPTURE = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"


@dataclass(frozen=True)
class Authority:
    """An authority with one signer under it; `anchors` is what a trust list holds."""

    anchors: str
    chain: bytes
    private_key: bytes


def _name(name: str) -> x509.Name:
    names = (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
    return x509.Name([x509.NameAttribute(oid, name) for oid in names])


def _certificate(subject, key, issuer, issuer_key, authority: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    usage |= {"digital_signature": not authority, "key_cert_sign": authority, "crl_sign": authority}
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not authority:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA256())


def make_authority(signer: str = "Test Signer") -> Authority:
    """Make an authority and a signer certified by it."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("Test Authority", root_key, "Test Authority", root_key, True)
    leaf = _certificate(signer, key, "Test Authority", root_key, False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    anchors = root.public_bytes(pem)
    return Authority(anchors.decode(), leaf.public_bytes(pem) + anchors, private)


def sign(
    data: bytes, authority: Authority, mime: str = "image/jpeg", source_type: str = AI_SOURCE
) -> bytes:
    """Embed a signed C2PA manifest of a single action, `c2pa.created`."""
    action = {"action": "c2pa.created", "digitalSourceType": source_type}
    manifest = {
        "claim_generator_info": [{"name": "Test Generator", "version": "1"}],
        "title": "drawn",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    quiet = {"verify": {"verify_after_sign": False}, "builder": {"thumbnail": {"enabled": False}}}
    signer = c2pa.Signer.from_info(
        c2pa.C2paSignerInfo(b"es256", authority.chain, authority.private_key, None)
    )
    signed = io.BytesIO()
    with c2pa.Builder.from_json(
        json.dumps(manifest), context=c2pa.Context.from_dict(quiet)
    ) as builder:
        builder.sign(signer, mime, io.BytesIO(data), signed)
    return signed.getvalue()
