from joblet.logstore.readers import Readers

JOB, OTHER = "a", "b"


def test_a_reader_is_before_what_it_has_not_taken() -> None:
    readers = Readers(return_seconds=0.0)
    assert not readers.any_before(JOB, 100)
    with readers.reading(JOB) as one, readers.reading(JOB) as two:
        assert readers.any_before(JOB, 1)  # nothing is known yet
        assert readers.lowest(JOB) is None
        one.position, two.position = 100, 200
        assert readers.any_before(JOB, 101)
        assert not readers.any_before(JOB, 100)
        assert not readers.any_before(OTHER, 101)
        assert readers.lowest(JOB) == 100
    assert not readers.any_before(JOB, 1000)
    assert readers.lowest(JOB) is None


def test_a_reader_that_left_counts_for_a_while() -> None:
    readers = Readers(return_seconds=3600.0)
    with readers.reading(JOB) as reader:
        reader.position = 100
    assert readers.any_before(JOB, 101)
    assert not readers.any_before(JOB, 100)
    assert not readers.any_before(OTHER, 101)
