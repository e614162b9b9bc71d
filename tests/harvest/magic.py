"""Finds pictures, sound and video in bytes by what their formats begin with, also inside of zips and base64."""

import base64
import binascii
import io
import re
import zipfile

# Long enough that numbers do not look so by chance; two-byte marks count only with what must follow them.
_MAGIC = {
    "jpeg": rb"\xff\xd8\xff[\xe0-\xef\xdb\xc0\xc4\xfe]..[\x00-\x7f]{3}|\xff\xd8\xff\xdb\x00[\x43\x84]",
    "png": rb"\x89PNG\r\n\x1a\n",
    "gif": rb"GIF8[79]a",
    "riff": rb"RIFF.{4}(?:WEBPVP8|AVI LIST|WAVE)",
    "bmp": rb"BM.{4}\0{4}.{4}[\x0c\x28\x6c\x7c]\0{3}.{8}\x01\0[\x01\x04\x08\x18\x20]\0",
    "tiff": rb"II\*\0[^\0].?.?\0|MM\0\*\0[^\xff]{2}[^\0]",
    "mp4": rb"\0{2}..ftyp[ -~]{4}",
    "matroska": rb"\x1a\x45\xdf\xa3[\x80-\xff\x01]",
    "id3": rb"ID3[\x02-\x04]\0.[\0-\x7f]{4}",
    "ogg": rb"OggS\0[\x02\0]",
    "flac": rb"fLaC\0\0\0\x22",
    "flv": rb"FLV\x01[\x01\x04\x05]\0{3}\x09",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "mpeg-ps": rb"\0\0\x01\xba[\x40-\x7f\x21]",
    "mpeg-ts": rb"G[\0-\x5f].{186}G[\0-\x5f].{186}G[\0-\x5f].{186}G",
    # A parameter set of a known profile; streams inside of mp4 have lengths in place of start codes.
    "h264": rb"\0\0\x01[\x27\x47\x67][\x42\x4d\x58\x64\x6e\x7a\xf4].[\x0a-\x3e]",
    "h265": rb"\0\0\x01\x40\x01\x0c[\x01-\x06]",
}
_FOUND = {name: re.compile(pattern, re.DOTALL) for name, pattern in _MAGIC.items()}
_MP3 = re.compile(rb"\xff[\xf2\xf3\xfa\xfb]([\x10-\xeb])")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{64,}={0,2}")
_RATES = (44100, 48000, 32000)
_KBITS = {3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
          2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)}


def media(data):
    """The names of the formats that occur in ``data``."""
    found = {name for name, pattern in _FOUND.items() if pattern.search(data)}
    found |= {"mp3"} if any(_mp3(data, match.start()) for match in _MP3.finditer(data)) else set()
    for inner in _inside(data):
        found |= media(inner)
    return found


def _inside(data):
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    for match in _BASE64.finditer(data):
        text = match[0]
        try:
            yield base64.b64decode(text[:len(text) // 4 * 4])
        except binascii.Error:
            continue


def _mp3(data, place, frames=3):
    """Whether that many frames of MPEG audio, layer III, follow each other."""
    for _ in range(frames):
        head = data[place:place + 4]
        if len(head) < 4 or head[0] != 0xff or head[1] & 0xe6 != 0xe2:
            return False
        version, kbits, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
        if version not in _KBITS or kbits in (0, 15) or rate == 3:
            return False
        hertz = _RATES[rate] // (1 if version == 3 else 2)
        place += (144 if version == 3 else 72) * _KBITS[version][kbits - 1] * 1000 // hertz + (head[2] >> 1 & 1)
    return True
