"""Memory does not grow with the data set."""

from measure_annotate_memory import measure


def test_requirement_09_memory_stays_as_it_is() -> None:
    """A mask of 30x20 pixels and dicts kept for each of 1,600 objects would show."""
    few, many = measure(100, 900)
    assert many["masks"] == 1800
    assert many["peak_MiB"] < few["peak_MiB"] + 5
