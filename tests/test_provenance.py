"""Provenance: signatures, labels, generator settings and camera data, read by structure."""

import io
import json
import re
import struct
import time
import zlib

import numpy as np
import pytest
from cryptography import x509
from helpers.bad_files import heic
from helpers.signing import AI_SOURCE, CAPTURE, make_authority, sign
from helpers.timing import least
from helpers.tiny import draw_picture
from PIL import ExifTags, Image, PngImagePlugin

from realfake.cli.main import main
from realfake.provenance import content_credentials, metadata
from realfake.provenance.content_credentials import TrustList
from realfake.provenance.metadata import MAX_XMP, read_blocks, read_xmp, term_of
from realfake.provenance.reading import read_provenance

MIMES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
A1111 = (
    "a cat on a chair\nNegative prompt: dog\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"
)
COMFY = json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 1}}})


@pytest.fixture(scope="module")
def authority():
    return make_authority()


def saved(format: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    draw_picture(64, seed=1).save(file, format, **options)
    return file.getvalue()


def kinds(data: bytes, anchors: str | None = None) -> dict:
    trusted = TrustList(anchors) if anchors else None
    return {found.kind: found for found in read_provenance(data, trusted).findings}


def png_with(*chunks: tuple[bytes, bytes], last: bool = False) -> bytes:
    """Return a PNG with chunks after its header, or before its end."""
    data = saved("PNG")
    added = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    cut = len(data) - 12 if last else 33
    return data[:cut] + added + data[cut:]


def xmp(source: str = AI_SOURCE, extra: str = "") -> bytes:
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{source}" {extra}/></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>   '
    ).encode()


# Content Credentials


@pytest.mark.parametrize("format", MIMES)
def test_a_signer_on_the_trust_list_is_trusted(format, authority):
    found = kinds(sign(saved(format), authority, MIMES[format]), authority.anchors)["c2pa"]
    assert (found.state, found.claim) == ("trusted", "ai")
    assert found.fields == {
        "signer": "Test Signer",
        "generator": "Test Generator 1",
        "source_types": "trainedAlgorithmicMedia",
    }
    assert metadata.TERMS["trainedAlgorithmicMedia"][1] in found.detail


def test_a_signer_on_no_list_is_untrusted(authority):
    data = sign(saved(), authority, source_type=CAPTURE)
    unlisted = kinds(data, make_authority().anchors)["c2pa"]
    assert (unlisted.state, unlisted.claim) == ("untrusted", "camera")
    bundled = kinds(data)["c2pa"]
    assert bundled.state == "untrusted"
    assert content_credentials.trust_list().date in bundled.detail


@pytest.mark.parametrize("format", MIMES)
def test_an_image_changed_after_signing_is_invalid(format, authority):
    data = bytearray(sign(saved(format), authority, MIMES[format]))
    # The pixels come after the store in JPEG and PNG, before it in WebP.
    at = data.index(b"VP8") + 100 if format == "WEBP" else len(data) - 60
    data[at] ^= 0x55
    found = kinds(bytes(data), authority.anchors)["c2pa"]
    assert found.state == "invalid"
    assert found.claim is None
    assert content_credentials._FAILURES["assertion.dataHash.mismatch"] in found.detail


def test_a_damaged_store_is_invalid(authority):
    data = bytearray(sign(saved(), authority))
    data[data.index(b"jumb", data.index(b"jumb") + 4)] ^= 0xFF  # a box inside the store
    assert kinds(bytes(data), authority.anchors)["c2pa"].state == "invalid"


def test_the_reason_of_a_failed_check_is_plain_text():
    store = {
        "active_manifest": "a",
        "manifests": {"a": {"signature_info": {"issuer": "A\nB"}}},
        "validation_state": "Invalid",
        "validation_status": [{"code": "signingCredential.expired"}, {"code": "new.code"}],
    }
    found = content_credentials._credentials(store)
    assert (found.state, found.signer) == ("invalid", "A B")
    expired = content_credentials._FAILURES["signingCredential.expired"]
    assert found.reason.startswith(f"{expired}; ") and "new.code" in found.reason


def test_bytes_after_a_signed_image_break_its_signature(authority):
    assert kinds(sign(saved(), authority) + b"more", authority.anchors)["c2pa"].state == "invalid"


def test_an_unsigned_image_has_no_findings():
    cannot = ("BMP", "PPM", "JPEG2000")
    for format in (*MIMES, "GIF", "TIFF", "AVIF", "HEIF", *cannot):
        found = kinds(heic(draw_picture(64)) if format == "HEIF" else saved(format))
        assert {name: item.state for name, item in found.items()} == {
            "c2pa": "unsupported" if format in cannot else "absent",
            "iptc": "absent",
            "generator_parameters": "absent",
            "camera": "absent",
        }
        assert all("means nothing" in item.detail for item in found.values())
        assert all(item.claim is None for item in found.values())


def test_a_signed_heic_photograph(authority):
    data = sign(heic(draw_picture(64)), authority, "image/heic")
    assert kinds(data, authority.anchors)["c2pa"].state == "trusted"
    assert kinds(data.replace(b"mdat", b"mdaT"), authority.anchors)["c2pa"].state != "trusted"


def test_the_trust_list_is_a_file_that_the_environment_names(authority, tmp_path, monkeypatch):
    path = tmp_path / "trust.pem"
    path.write_text(authority.anchors)
    monkeypatch.setenv(content_credentials.VARIABLE, str(path))
    assert kinds(sign(saved(), authority))["c2pa"].state == "trusted"
    for text in ("nothing of the kind", authority.anchors.replace("MII", "---")):
        path.write_text(text)
        with pytest.raises(ValueError, match="trust.pem"):
            content_credentials.trust_list()
    monkeypatch.setenv(content_credentials.VARIABLE, str(tmp_path / "missing.pem"))
    with pytest.raises(OSError):
        content_credentials.trust_list()


def test_the_bundled_trust_list_names_cameras_and_generators(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundled = content_credentials.trust_list()
    assert bundled.date >= "2026-07-22" and len(bundled) >= 30
    certificates = x509.load_pem_x509_certificates(bundled.anchors.encode())
    assert len(certificates) == len(bundled)
    names = " ".join(certificate.subject.rfc4514_string() for certificate in certificates)
    for signer in ("Google", "Adobe", "DigiCert", "Xiaomi"):
        assert signer in names
    by_name = {certificate.subject: certificate for certificate in certificates}
    for certificate in certificates:  # copied without a mistake
        if certificate.issuer in by_name:
            certificate.verify_directly_issued_by(by_name[certificate.issuer])


def test_one_command_refreshes_the_trust_list(authority, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(content_credentials.VARIABLE, raising=False)
    path = tmp_path / "signed.jpg"
    path.write_bytes(sign(saved(), authority))
    asked = []

    def fetch(address, max_bytes, types):
        asked.append(address)
        return answer.encode()

    monkeypatch.setattr(content_credentials, "fetch", fetch)
    answer = "<html>404</html>"
    assert main(["provenance", "--refresh_trust_list"]) == 2
    assert (
        content_credentials.VARIABLE in capsys.readouterr().err
        and not content_credentials.refreshed().exists()
    )
    answer = f"Subject\tCN=Test\n{authority.anchors}"
    assert main(["provenance", "--refresh_trust_list", str(path), "--json"]) == 0
    assert asked[-2:] == list(content_credentials.ADDRESSES)
    assert json.loads(capsys.readouterr().out)["findings"][0]["state"] == "trusted"
    assert kinds(path.read_bytes())["c2pa"].state == "trusted"
    # A newer version of the package brings a newer list.
    stored = content_credentials.refreshed()
    stored.write_text(re.sub(r"\d{4}-\d\d-\d\d", "2020-01-01", stored.read_text(), count=1))
    assert kinds(path.read_bytes())["c2pa"].state == "untrusted"


def test_a_reader_that_takes_too_long_is_abandoned(authority, monkeypatch):
    monkeypatch.setattr(content_credentials, "SECONDS", 0.05)
    monkeypatch.setattr(content_credentials, "_read", lambda *_: time.sleep(2))
    found = kinds(sign(saved(), authority))["c2pa"]
    assert found.state == "unchecked"
    assert "0.05 seconds" in found.detail


def test_a_store_that_is_too_large_is_not_read(authority, monkeypatch):
    monkeypatch.setattr(content_credentials, "MAX_C2PA", 100)
    assert kinds(sign(saved(), authority))["c2pa"].state == "unchecked"


def test_the_parents_of_a_manifest_count():
    def manifest(term, parent=None):
        action = {"action": "c2pa.created", "digitalSourceType": term}
        ingredients = [{"relationship": "parentOf", "active_manifest": parent}] if parent else []
        return {
            "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
            "ingredients": ingredients,
        }

    many = manifest(CAPTURE)
    many["assertions"] *= 100
    for number, assertion in enumerate(many["assertions"]):
        action = {"digitalSourceType": f"http://c2pa.org/digitalsourcetype/{number}"}
        many["assertions"][number] = assertion | {"data": {"actions": [action]}}
    assert len(content_credentials._source_types({}, many)) == 32
    manifests = {"a": manifest(CAPTURE, "b"), "b": manifest(AI_SOURCE, "a")}
    found = content_credentials._source_types(manifests, manifests["a"])
    assert found == ("digitalCapture", "trainedAlgorithmicMedia")


# Structure of the file


def test_text_after_the_end_of_an_image_is_ignored():
    words = (
        b"Stable Diffusion parameters Steps: 20, Sampler: Euler a, Midjourney "
        + xmp()
        + COMFY.encode()
    )
    for format in MIMES:
        data = saved(format)
        assert read_provenance(data + words).to_dict() == read_provenance(data).to_dict()


def test_a_png_after_a_jpeg_is_ignored():
    hidden = png_with((b"tEXt", b"parameters\0" + A1111.encode()))
    assert kinds(saved() + hidden)["generator_parameters"].state == "absent"


def test_text_inside_the_pixels_is_ignored():
    pixels = np.frombuffer(
        (b"parameters\0Steps: 20, Sampler: Euler a " * 400)[: 64 * 64 * 3], np.uint8
    )
    file = io.BytesIO()
    Image.fromarray(pixels.reshape(64, 64, 3)).save(file, "BMP")
    states = {found.state for found in read_provenance(file.getvalue()).findings}
    assert states == {"absent", "unsupported"}


def test_a_png_chunk_with_a_wrong_checksum_is_ignored():
    data = bytearray(png_with((b"tEXt", b"parameters\0" + A1111.encode())))
    assert kinds(bytes(data))["generator_parameters"].state == "present"
    data[data.index(b"Steps")] ^= 1
    assert kinds(bytes(data))["generator_parameters"].state == "absent"


def test_chunks_after_iend_are_ignored():
    assert kinds(png_with((b"tEXt", b"parameters\0" + A1111.encode()), last=True))[
        "generator_parameters"
    ].state == ("present")
    chunk = png_with((b"tEXt", b"parameters\0" + A1111.encode()))[33:]
    assert kinds(saved("PNG") + chunk)["generator_parameters"].state == "absent"


# Generators


@pytest.mark.parametrize(
    ("keyword", "text", "name"),
    [
        ("parameters", A1111, "Stable Diffusion web UI or a similar program"),
        ("parameters", "a cat", "an image generator"),
        ("prompt", COMFY, "ComfyUI"),
        ("workflow", json.dumps({"nodes": [], "links": []}), "ComfyUI"),
        ("invokeai_metadata", "{}", "InvokeAI"),
        ("Software", "NovelAI", "NovelAI"),
        ("Description", "a cat --v 6 Job ID: 01234567-89ab-cdef-0123-456789abcdef", "Midjourney"),
    ],
)
def test_generators_are_recognised_by_text_chunks(keyword, text, name):
    for itxt in (False, True):
        info = PngImagePlugin.PngInfo()
        (info.add_itxt if itxt else info.add_text)(keyword, text, zip=itxt)
        found = kinds(saved("PNG", pnginfo=info))["generator_parameters"]
        assert (found.state, found.claim, found.fields["generator"]) == ("present", "ai", name)
        assert f"PNG text “{keyword}”" in found.detail


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("Software", "GIMP"),
        ("Description", "a holiday"),
        ("prompt", "what I was thinking"),
        ("prompt", "{bad json"),
        ("workflow", "[1, 2]"),
        ("prompt", '{"a": 1}'),
        ("Comment", A1111),
        ("prompt", "[" * 100_000),
        ("Title", "Midjourney"),
    ],
)
def test_other_text_chunks_are_not_generator_settings(keyword, text):
    info = PngImagePlugin.PngInfo()
    info.add_text(keyword, text)
    assert kinds(saved("PNG", pnginfo=info))["generator_parameters"].state == "absent"


def test_empty_lines_take_linear_time():
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "\n" * 1_000_000 + "Steps: 20, Sampler: Euler a", zip=True)
    data = saved("PNG", pnginfo=info)
    seconds, found = least(lambda: kinds(data)["generator_parameters"])
    assert seconds < 1
    assert found.fields["generator"] == "Stable Diffusion web UI or a similar program"


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le"])
def test_settings_in_a_user_comment_are_read(format, encoding):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + A1111.encode(
        encoding
    )
    found = kinds(saved(format, exif=exif))
    assert found["generator_parameters"].fields["settings"] == A1111
    assert found["camera"].state == "absent"


def test_long_settings_are_cut():
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "x" * 100_000)
    assert len(kinds(saved("PNG", pnginfo=info))["generator_parameters"].fields["settings"]) == 2000


# IPTC


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_digital_source_type_is_read_from_xmp(format):
    if format == "PNG":
        data = png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp()))
    elif format == "TIFF":
        data = saved("TIFF", tiffinfo={700: xmp()})
    else:
        data = saved(format, xmp=xmp())
    found = kinds(data)["iptc"]
    assert (found.state, found.claim) == ("present", "ai")
    assert found.title == "Labelled as generated by AI"


def test_the_source_type_is_read_from_an_element_or_a_resource():
    packet = xmp().decode()
    attribute = f'Iptc4xmpExt:DigitalSourceType="{AI_SOURCE}" '
    element = "<Iptc4xmpExt:DigitalSourceType>{0}</Iptc4xmpExt:DigitalSourceType></rdf:Description>"
    resource = '<Iptc4xmpExt:DigitalSourceType rdf:resource="{0}"/></rdf:Description>'
    for form in (element, resource):
        changed = packet.replace(attribute, "").replace(
            "/></rdf:RDF>", ">" + form.format(AI_SOURCE) + "</rdf:RDF>"
        )
        assert read_xmp([changed.encode()]).source_types == ("trainedAlgorithmicMedia",)


@pytest.mark.parametrize(
    ("term", "claim"),
    [
        ("compositeWithTrainedAlgorithmicMedia", "partly_ai"),
        ("digitalCapture", "camera"),
        ("computationalCapture", "camera"),
        ("digitalArt", "other"),
        ("somethingNew", "other"),
    ],
)
def test_claims_of_other_source_types(term, claim):
    found = kinds(saved(xmp=xmp(f"http://cv.iptc.org/newscodes/digitalsourcetype/{term}")))["iptc"]
    assert (found.state, found.claim) == ("present", claim)


IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"


@pytest.mark.parametrize("container", ["Bag", "Seq", "Alt"])
def test_the_source_type_is_read_from_a_list(container):
    items = f'<r:li>{AI_SOURCE}</r:li><r:li r:resource="{CAPTURE}"/>'
    box = f"\n<r:{container}>{items}</r:{container}>"
    packet = f'<DigitalSourceType xmlns="{IPTC}" xmlns:r="{RDF}">{box}</DigitalSourceType>'
    assert read_xmp([packet.encode()]).source_types == ("trainedAlgorithmicMedia", "digitalCapture")
    system = packet.replace("DigitalSourceType", "AISystemUsed").replace(AI_SOURCE, "Painter 3")
    assert read_xmp([system.encode()]).ai_system == "Painter 3"


@pytest.mark.parametrize("name", ["DigitalSourceType", "AISystemUsed"])
def test_nested_properties_take_linear_time(name):
    start, end = f"<{name}>", f"</{name}>"
    depth = (MAX_XMP - 100) // len(start + end)
    packet = f'<x xmlns="{IPTC}">{start * depth}{end * depth}</x>'.encode()
    data = png_with((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet)))
    seconds, found = least(lambda: kinds(data)["iptc"])
    # The square of their number takes two seconds or more.
    assert seconds < 0.7 and found.state == "absent"
    assert not read_xmp([packet]).damaged


def test_the_content_of_a_packet_is_bounded():
    terms = "".join(
        f"<DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/{'x' * 200}{number}"
        "</DigitalSourceType>"
        for number in range(2000)
    )
    packet = f'<x xmlns="{IPTC}"><y/>{terms}</x>'.encode()
    found = read_xmp([packet])
    assert len(found.source_types) == 1 and len(found.source_types[0]) == 80
    short = packet.replace(b"x" * 200, b"")
    assert read_xmp([short]).source_types == tuple(map(str, range(32)))
    data = png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + short))
    assert len(kinds(data)["iptc"].detail) < 4000
    label = f"<DigitalSourceType>{AI_SOURCE}</DigitalSourceType>"
    behind = f'<x xmlns="{IPTC}">{"<y/>" * 20_000}{label}</x>'.encode()
    assert read_xmp([behind]) == read_xmp([])
    assert read_xmp([b" " * 2**21, xmp()]).source_types == ("trainedAlgorithmicMedia",)
    assert read_xmp([b" " * 2**21]).damaged


def test_other_properties_are_ignored():
    packet = xmp().replace(b"Iptc4xmpExt:DigitalSourceType", b"Iptc4xmpExt:Headline")
    assert kinds(saved(xmp=packet))["iptc"].state == "absent"
    elsewhere = xmp().replace(
        b"http://iptc.org/std/Iptc4xmpExt/2008-02-29/", b"http://example.invalid/"
    )
    assert kinds(saved(xmp=elsewhere))["iptc"].state == "absent"


def test_source_types_of_other_vocabularies_are_ignored():
    assert (
        term_of("http://example.invalid/newscodes/digitalsourcetype/trainedAlgorithmicMedia")
        is None
    )
    assert term_of("trainedAlgorithmicMedia") == "trainedAlgorithmicMedia"
    assert term_of("https://cv.iptc.org/newscodes/digitalsourcetype/print/") == "print"


def test_an_ai_system_is_named():
    found = kinds(saved(xmp=xmp(CAPTURE, 'Iptc4xmpExt:AISystemUsed="Painter 3"')))["iptc"]
    assert found.claim == "partly_ai"
    assert "Painter 3" in found.detail


def test_a_remote_manifest_is_named():
    extra = 'xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="https://example.invalid/manifest.c2pa"'
    found = kinds(saved(xmp=xmp(extra=extra)))["c2pa"]
    assert found.state == "absent"
    assert "https://example.invalid/manifest.c2pa" in found.detail


def test_entities_are_not_expanded():
    bomb = (
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        + xmp().split(b"?>", 1)[1].replace(AI_SOURCE.encode(), b"&b;")
    )
    assert read_xmp([bomb]).damaged
    outside = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><x>&a;</x>'
    assert read_xmp([outside]) == read_xmp([b"<not xml"])


def test_deeply_nested_xml_does_not_crash():
    depth = 200_000
    assert read_xmp([b"<a>" * depth + b"</a>" * depth]).source_types == ()


# Cameras


def test_a_camera_is_named_with_its_settings_but_not_the_location():
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Nikon", "Nikon Z 6"
    sub = exif.get_ifd(ExifTags.IFD.Exif)
    sub[ExifTags.Base.ExposureTime], sub[ExifTags.Base.ISOSpeedRatings] = 0.008, 400
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (59.0, 54.0, 50.0)
    for format in ("JPEG", "PNG", "WEBP", "AVIF"):
        found = kinds(saved(format, exif=exif))["camera"]
        assert (found.state, found.claim, found.title) == (
            "present",
            "camera",
            "Camera data: Nikon Z 6",
        )
        assert found.fields == {
            "make": "Nikon",
            "model": "Nikon Z 6",
            "exposure_seconds": "0.008",
            "iso": "400",
        }
        assert "Nikon Z 6" in found.detail


def test_exif_without_a_camera():
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = "a program"
    found = kinds(saved(exif=exif))["camera"]
    assert found.state == "absent"
    assert found.detail != kinds(saved())["camera"].detail


def test_hostile_names_become_one_printable_line():
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A\x00\x1b[31m\nB" + "x" * 500
    title = kinds(saved(exif=exif))["camera"].title
    assert title.isprintable()
    assert len(title) < 250


# Damaged and hostile files


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\xff\xffWEBP", b"text", bytes(64)],
)
def test_other_files_have_no_findings(data):
    assert all(found.state == "absent" for found in read_provenance(data).findings)


def test_damaged_files_never_raise(authority):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Nikon"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + A1111.encode(
        "utf-16-be"
    )
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", A1111, zip=True)
    files = [
        sign(saved(exif=exif, xmp=xmp()), authority),
        saved("PNG", pnginfo=info, exif=exif),
        saved("TIFF", tiffinfo={700: xmp()}),
        saved("WEBP", exif=exif, xmp=xmp()),
        saved("GIF", comment=b"x"),
        saved("AVIF", exif=exif),
    ]
    rng = np.random.default_rng(0)
    states = set()
    for data in files:
        head = min(len(data), 4096)
        for _ in range(60):
            broken = np.frombuffer(data, np.uint8).copy()
            broken[rng.integers(0, head, rng.integers(1, 12))] = rng.integers(0, 256)
            result = read_provenance(
                broken[: rng.integers(head // 2, len(data) + 1)].tobytes()
            ).to_dict()
            assert [found["kind"] for found in result["findings"]] == [
                "c2pa",
                "iptc",
                "generator_parameters",
                "camera",
            ]
            assert json.loads(json.dumps(result)) == result
            states |= {found["state"] for found in result["findings"]}
    # The damage reaches both the signatures and the other metadata.
    assert {"invalid", "absent", "present"} <= states


def test_a_text_bomb_is_not_inflated():
    bomb = b"parameters\0\0" + zlib.compress(bytes(64 * 2**20))
    blocks = read_blocks(png_with(*[(b"zTXt", bomb)] * 200))
    assert blocks.text == []
    many = read_blocks(png_with(*[(b"tEXt", b"k%d\0" % i + b"x" * 100_000) for i in range(200)]))
    assert sum(len(text) for _, text in many.text) <= metadata.MAX_TEXT


def test_endless_segments_are_abandoned():
    assert read_blocks(b"\xff\xd8\xff\xe0\x00\x02" + b"\xff\xe0\x00\x02" * 2_000_000).xmp == []
    empty = struct.pack(">I", 0) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    assert read_blocks(b"\x89PNG\r\n\x1a\n" + empty * 1_000_000).text == []
