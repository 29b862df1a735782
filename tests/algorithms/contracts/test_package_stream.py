from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.model_package import FileEntry
from algorithms.contracts.package_stream import stream_bytes, stream_spans


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 2**40)))
def test_the_spans_fill_the_stream_in_order_of_the_names(sizes: dict[str, int]) -> None:
    files = {name: FileEntry(sha256="0" * 64, size_bytes=size) for name, size in sizes.items()}
    spans = stream_spans(files)
    assert list(spans) == sorted(sizes)
    end = 0
    for name, span in spans.items():
        assert (span.start, span.stop - span.start) == (end, sizes[name])
        end = span.stop
    assert end == stream_bytes(files)
