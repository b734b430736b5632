"""ICC profiles made by hand (ICC.1:2010): of RGB spaces, of grey, and of a printer."""

import struct

import numpy as np

# Colourants of the primaries, adapted to D50: rows X, Y, Z; columns red, green, blue.
SRGB = ((0.43607, 0.38515, 0.14307), (0.22249, 0.71687, 0.06061), (0.01392, 0.09708, 0.71410))
DISPLAY_P3 = (
    (0.51512, 0.29198, 0.15710),
    (0.24120, 0.69225, 0.06657),
    (-0.00105, 0.04189, 0.78407),
)
ADOBE_RGB = ((0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457))
# Exponent and the other parameters of a curve of type 3 (ICC.1, 10.16).
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def rgb_profile(colourants=DISPLAY_P3, curve=SRGB_CURVE) -> bytes:
    """A profile of a matrix and a curve; a single number is a gamma."""
    tags = {
        f"{name}XYZ": _xyz([row[index] for row in colourants]) for index, name in enumerate("rgb")
    }
    return _profile(b"RGB ", b"mntr", tags | {f"{name}TRC": _curve(curve) for name in "rgb"})


def grey_profile(gamma: float = 1.0) -> bytes:
    return _profile(b"GRAY", b"mntr", {"kTRC": _curve(gamma)})


def cmyk_profile(black: float = 1.0) -> bytes:
    """A printer whose inks absorb one primary each; `black` is the strength of the black ink."""
    colours = []
    for ink in np.ndindex(2, 2, 2, 2):
        rest = (1 - black * ink[3]) * (1 - np.array(ink[:3]))
        colours.append(_lab(rest @ np.array(SRGB).T))
    ramp = bytes(range(256))
    table = b"".join(bytes(colour) for colour in colours)
    identity = struct.pack(">9i", *(65536 * (place % 4 == 0) for place in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3
    return _profile(b"CMYK", b"prtr", {"A2B0": lut, "A2B1": lut}, space=b"Lab ")


def _lab(xyz: np.ndarray) -> list[int]:
    ratio = np.asarray(xyz) / (0.9642, 1.0, 0.8249)
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    values = (116 * y - 16) * 2.55, 500 * (x - y) + 128, 200 * (y - z) + 128
    return [int(np.clip(np.rint(value), 0, 255)) for value in values]


def _xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(curve) -> bytes:
    values, kind = (curve, 3) if isinstance(curve, tuple) else ((curve,), 0)
    fixed = struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + fixed


def _profile(colours: bytes, kind: bytes, tags: dict[str, bytes], space: bytes = b"XYZ ") -> bytes:
    tags = {
        "desc": b"mluc" + bytes(4) + struct.pack(">LL", 0, 12),
        "wtpt": _xyz((0.9642, 1.0, 0.8249)),
    } | tags
    table, body, start = struct.pack(">L", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name.encode() + struct.pack(">LL", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(
        ">L4sL4s4s4s12s4s", start + len(body), b"", 0x04200000, kind, colours, space, b"", b"acsp"
    )
    return head.ljust(68, b"\0") + _xyz((0.9642, 1.0, 0.8249))[8:].ljust(60, b"\0") + table + body
