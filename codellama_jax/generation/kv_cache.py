"""The pages of the key-value cache: which are free, which are shared, and which hold the beginning of a prompt.

A page holds the keys and values of `size` consecutive tokens. A full page is identified by a hash of its tokens and of
all tokens before it, so that requests with equal beginnings share pages. Pages that no request uses keep their content
until they are needed; the least recently used are taken first. Page 0 is never given out: inactive slots write to it.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

SCRATCH = 0


class OutOfPages(Exception):
    """No page is free."""


class PagePool:
    """The pages of one cache.

    Args:
        count: number of pages, without the scratch page.
        size: number of tokens in a page.
        share: whether pages are found again by their content.

    Attributes:
        count: number of pages, without the scratch page.
        size: number of tokens in a page.
        share: whether pages are found again by their content.
        used: number of pages that requests use.
    """

    def __init__(self, count: int, size: int, share: bool = True):
        self.count, self.size, self.share = count, size, share
        self._free = list(range(count, 0, -1))
        self._users: dict[int, int] = {}
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()  # pages with content, least recently used first

    @property
    def used(self) -> int:
        return len(self._users)

    @property
    def available(self) -> int:
        """Number of pages that can be allocated."""
        return len(self._free) + len(self._unused)

    def allocate(self) -> int:
        """A page for one request, with undefined content.

        Raises:
            OutOfPages: requests use all pages.
        """
        if self._free:
            page = self._free.pop()
        elif self._unused:
            page, _ = self._unused.popitem(last=False)
            del self._page_of[self._key_of.pop(page)]
        else:
            raise OutOfPages
        self._users[page] = 1
        return page

    def find(self, tokens: Sequence[int], adapter: int = 0) -> list[int]:
        """The pages that hold the longest known beginning of `tokens`, in order. They are then used by the caller.

        Keys and values depend on the adapter that computed them: pages are found with its number only.
        """
        pages: list[int] = []
        if self.share:
            for key in self._keys(tokens, adapter):
                page = self._page_of.get(key)
                if page is None:
                    break
                pages.append(page)
        for page in pages:
            self._unused.pop(page, None)
            self._users[page] = self._users.get(page, 0) + 1
        return pages

    def publish(self, tokens: Sequence[int], pages: Sequence[int], adapter: int = 0) -> None:
        """Makes the full pages of a request findable. `pages` hold the keys and values of `tokens`; see `find`."""
        if not self.share:
            return
        for key, page in zip(self._keys(tokens, adapter), pages, strict=False):
            if key not in self._page_of and page not in self._key_of:
                self._page_of[key], self._key_of[page] = page, key

    def release(self, pages: Sequence[int]) -> None:
        """Ends the use of pages by a request."""
        for page in reversed(pages):  # so that the beginning of a text is the most recently used
            self._users[page] -= 1
            if not self._users[page]:
                del self._users[page]
                if page in self._key_of:
                    self._unused[page] = None
                else:
                    self._free.append(page)

    def _keys(self, tokens: Sequence[int], adapter: int) -> list[bytes]:
        """The key of each full page of a text."""
        ids, keys = np.asarray(tokens, np.int32), list[bytes]()
        key = adapter.to_bytes(4, "little") if adapter else b""
        for end in range(self.size, len(ids) + 1, self.size):
            key = hashlib.blake2b(key + ids[end - self.size : end].tobytes(), digest_size=16).digest()
            keys.append(key)
        return keys
