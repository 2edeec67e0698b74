import json

from jaxlm.text.transcript import Segment, Transcript, clock

ONE = Segment(0.0, 2.5, " ¿Qué --> pasa?", (5, 6), 0.0, -0.1)
TWO = Segment(3599.996, 3661.04, " Nada.", (7,), 0.2, -0.2)
BOTH = Transcript("¿Qué --> pasa? Nada.", "es", (ONE, TWO))


def test_clock():
    assert clock(0) == "00:00:00.000" and clock(3661.04, ",") == "01:01:01,040"
    assert clock(59.9996) == "00:01:00.000"


def test_forms():
    assert str(BOTH) == BOTH.text
    assert BOTH.written("txt") == "¿Qué --> pasa?\nNada.\n"
    assert BOTH.written("srt") == (
        "1\n00:00:00,000 --> 00:00:02,500\n¿Qué -> pasa?\n\n2\n00:59:59,996 --> 01:01:01,040\nNada.\n\n"
    )
    assert BOTH.written("vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.500\n")
    read = json.loads(BOTH.written("json"))
    assert read["language"] == "es" and read["segments"][1]["end"] == 3661.04 and "¿" in BOTH.written("json")
