"""The pages of the key-value cache."""

import numpy as np
import pytest

from codellama_jax.generation.kv_cache import SCRATCH, OutOfPages, PagePool


def test_pages_are_distinct_and_never_the_scratch_page():
    pool = PagePool(5, 4)
    pages = [pool.allocate() for _ in range(5)]
    assert sorted(pages) == [1, 2, 3, 4, 5] and SCRATCH not in pages and pool.used == 5
    with pytest.raises(OutOfPages):
        pool.allocate()
    pool.release(pages[:2])
    assert pool.used == 3 and pool.available == 2


def test_equal_beginnings_share_full_pages():
    pool = PagePool(8, 4)
    pages = [pool.allocate() for _ in range(3)]
    pool.publish(range(10), pages)  # two full pages and a half
    assert pool.find(range(10)) == pool.find(range(8)) == pages[:2]
    assert pool.find(range(7)) == pages[:1] and pool.find([9, 1, 2, 3]) == []
    assert pool.find([0, 1, 2, 3, 9, 9, 9, 9]) == pages[:1]


def test_an_equal_page_after_another_beginning_is_not_shared():
    pool = PagePool(8, 2)
    pool.publish([1, 1, 5, 5], [pool.allocate(), pool.allocate()])
    assert len(pool.find([2, 2, 5, 5])) == 0 and len(pool.find([5, 5])) == 0


def test_released_pages_keep_their_content_until_they_are_needed():
    pool = PagePool(3, 2)
    pages = [pool.allocate() for _ in range(3)]
    pool.publish(range(6), pages)
    pool.release(pages)
    assert (pool.used, pool.available) == (0, 3)
    assert pool.allocate() == pages[2]  # the end of the text is forgotten first
    assert pool.find(range(6)) == pages[:2]


def test_a_page_is_free_when_its_last_user_releases_it():
    pool = PagePool(2, 2)
    page = pool.allocate()
    pool.publish([1, 2], [page])
    assert pool.find([1, 2]) == [page]
    pool.release([page])
    assert pool.used == 1
    pool.release([page])
    assert pool.used == 0


def test_without_sharing_nothing_is_found():
    pool = PagePool(2, 2, share=False)
    pool.publish([1, 2], [pool.allocate()])
    assert pool.find([1, 2]) == []


def test_random_use_never_gives_a_page_to_two_requests_or_loses_one():
    rng = np.random.default_rng(0)
    pool, requests = PagePool(12, 2), []
    for _ in range(3000):
        if requests and rng.random() < 0.45:
            tokens, pages = requests.pop(rng.integers(len(requests)))
            pool.publish(tokens, pages)
            pool.release(pages)
            continue
        tokens = rng.integers(0, 2, rng.integers(1, 12)).tolist()
        pages = pool.find(tokens)
        shared = set(pages)
        try:
            while len(pages) < -(-len(tokens) // 2):
                pages.append(pool.allocate())
        except OutOfPages:
            pool.release(pages)
            continue
        own = set(pages) - shared
        assert not own & {page for _, others in requests for page in others}
        requests.append((tokens, pages))
        assert pool.used + pool.available == 12
    for _, pages in requests:
        pool.release(pages)
    assert (pool.used, pool.available) == (0, 12)
