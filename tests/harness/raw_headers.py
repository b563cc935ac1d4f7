"""Records with header names that are not UTF-8, which confluent_kafka's own producer refuses to write.

The librdkafka that confluent_kafka has loaded takes any bytes, so it is called directly.
"""

import ctypes
from functools import cache
from pathlib import Path

import confluent_kafka

from tests.harness.waiting import HANG_GUARD_S

PRODUCER = 0
END, TOPIC, VALUE, MSGFLAGS, HEADER = 0, 1, 4, 7, 9
COPY = 2
ERROR_BYTES = 512


@cache
def _librdkafka() -> ctypes.CDLL:
    assert confluent_kafka.libversion()
    mapped = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines())
    library = ctypes.CDLL(next(path for path in mapped if Path(path).name.startswith("librdkafka")))
    for name in ("rd_kafka_conf_new", "rd_kafka_new"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


def write_with_header(bootstrap: str, topic: str, value: bytes, name: bytes) -> None:
    """Write one record with one header of this name, and return when the broker has it."""
    library, error = _librdkafka(), ctypes.create_string_buffer(ERROR_BYTES)
    conf = ctypes.c_void_p(library.rd_kafka_conf_new())
    assert library.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap.encode(), error, ERROR_BYTES) == 0
    producer = ctypes.c_void_p(library.rd_kafka_new(PRODUCER, conf, error, ERROR_BYTES))
    assert producer, error.value
    header = (HEADER, name, b"", ctypes.c_ssize_t(0))
    record = (TOPIC, topic.encode(), VALUE, value, ctypes.c_size_t(len(value)), MSGFLAGS, COPY)
    assert library.rd_kafka_producev(producer, *record, *header, END) == 0
    assert library.rd_kafka_flush(producer, int(HANG_GUARD_S * 1000)) == 0
    library.rd_kafka_destroy(producer)
