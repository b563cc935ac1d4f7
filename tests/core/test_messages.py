"""Every message survives its crossing between processes, whatever stands in it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txninsightd import vocabulary as v

text = st.text(st.characters(codec="utf-8"), max_size=12)
some_text = st.none() | text
offsets = st.integers(0, 2**63 - 1)
moments = st.floats(allow_nan=False)
flat = st.lists(offsets, max_size=6)
signatures = st.tuples(st.integers(0, 3), some_text, some_text, some_text, st.booleans(), st.booleans())
refs = st.builds(v.PartitionRef, text, st.integers(0, 2**31 - 1), st.integers(0, 9))
found = st.builds(v.PartitionStart, text, st.integers(0, 2**31 - 1), offsets, moments, st.integers(0, 9), text)

MESSAGES = {
    v.Sightings: st.builds(
        v.Sightings,
        text,
        st.integers(0, 2**31 - 1),
        offsets,
        moments,
        moments,
        moments,
        st.lists(signatures, max_size=3),
        flat,
        st.lists(text, max_size=3),
        st.lists(st.integers(0, 2), max_size=3),
        st.lists(moments, max_size=3),
        st.lists(moments, max_size=3),
        flat,
        st.dictionaries(st.sampled_from([r.value for r in v.RecordResult]), offsets),
        st.integers(-1, 2**63 - 1),
        moments,
    ),
    v.Coverage: st.builds(
        v.Coverage,
        text,
        st.integers(0, 2**31 - 1),
        offsets,
        offsets,
        moments,
        moments,
        flat,
        flat,
        st.integers(-1, 2**63 - 1),
        st.integers(-1, 2**63 - 1),
        st.integers(0, 99),
    ),
    v.Seen: st.builds(
        v.Seen,
        st.sampled_from(v.View),
        st.lists(
            st.builds(
                v.SeenTopic,
                text,
                st.integers(0, 9),
                st.lists(st.integers(0, 2**31 - 1), max_size=3),
                st.lists(moments, max_size=3),
                st.lists(st.integers(-1, 2**63 - 1), max_size=3),
                st.lists(st.integers(-1, 2**63 - 1), max_size=3),
                st.lists(st.tuples(st.integers(0, 2**31 - 1), moments), max_size=2),
            ),
            max_size=3,
        ),
    ),
    v.Discovery: st.builds(
        v.Discovery,
        moments,
        st.lists(found, max_size=3),
        st.dictionaries(text, st.lists(st.integers(0, 9), max_size=3), max_size=3),
        st.lists(text, max_size=2),
        st.dictionaries(text, text, max_size=3),
        st.booleans(),
    ),
    v.Assign: st.builds(v.Assign, st.lists(found, max_size=3)),
    v.Pause: st.builds(v.Pause, text, st.integers(0, 2**31 - 1), st.booleans()),
    v.Attach: st.builds(v.Attach, text),
    v.ChildrenStatus: st.builds(
        v.ChildrenStatus,
        st.lists(st.builds(v.ChildStatus, text, st.booleans(), st.integers(0, 99)), max_size=3),
        st.builds(v.Reloads, st.integers(0, 99), st.integers(0, 99), st.booleans()),
    ),
    v.Reload: st.just(v.Reload()),
    v.UpdateReaderSettings: st.builds(v.UpdateReaderSettings, text, text, *[st.integers(1, 2**40)] * 3, moments),
    v.Stop: st.just(v.Stop()),
    v.Report: st.builds(v.Report, st.booleans(), text),
    v.KnownPartitions: st.builds(
        v.KnownPartitions, st.lists(refs, max_size=3), st.dictionaries(text, text, max_size=3)
    ),
    v.CommitOffsets: st.builds(v.CommitOffsets, st.lists(found, max_size=3)),
}
UNIONS = [v.FromChild, v.ToReader, v.FromParent]


def messages_of_the_vocabulary() -> set[type]:
    structs = [t for t in vars(v).values() if isinstance(t, type) and issubclass(t, msgspec.Struct)]
    return {t for t in structs if t.__struct_config__.array_like and t.__struct_config__.tag is not None}


def test_no_message_is_forgotten_here() -> None:
    assert MESSAGES.keys() == messages_of_the_vocabulary()


def test_tags_tell_all_messages_apart() -> None:
    tags = [t.__struct_config__.tag for t in MESSAGES]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_it_survives(kind: type[msgspec.Struct]) -> None:
    unions = [u for u in UNIONS if kind in u.__args__] or [kind]
    encoder = msgspec.msgpack.Encoder()
    decoders = [msgspec.msgpack.Decoder(union) for union in unions]

    @given(MESSAGES[kind])
    def crosses(message: msgspec.Struct) -> None:
        frame = encoder.encode(message)
        for decoder in decoders:
            received = decoder.decode(frame)
            assert type(received) is kind
            assert received == message

    crosses()
