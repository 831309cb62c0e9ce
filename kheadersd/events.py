# SPDX-License-Identifier: LGPL-2.1-or-later
"""The events of the journal and their message ids; `units/kheadersd.catalog` explains each."""

from __future__ import annotations

import enum


class Event(enum.Enum):
    """A change of state.

    Attributes:
        message_id: its stable MESSAGE_ID=.
        level: its level in syslog(3), if the report names no other.
        fields: the fields that its text in the catalog names.
    """

    STARTED = ("68d8a7ec25e842898fc028b088e19a36", "info", ())
    STOPPING = ("649dba6148ca408aa31c5458e10aa20b", "info", ())
    CACHE_STATE = ("b17df88006a2470ea4961ad1e13d459f", "info", ("path", "bytes"))
    CACHE_CLEARED = ("1d1f1f21493e4eaa8285b67336334827", "notice", ("path",))
    CACHE_FAILED = ("44ec8bc5003a49b98c22d37107a0431a", "err", ("path", "error"))
    ENTRY_ADDED = ("3e99ae11d4b64dbb89a033f4736111db", "info", ("release", "source", "path"))
    ENTRY_REMOVED = ("f33b086163af44dc98ee30c982db1231", "info", ("release", "path"))
    ENTRY_DAMAGED = ("c93c9f71ed1a46eaa2246a2231568635", "warning", ("release", "path"))
    RANDOMISED = ("ed7a6e3a363c49b7814aa7302f505299", "warning", ("release", "path"))
    HEADERS_DROPPED = ("f6d1ca141c2646bfb603c2c5480b376f", "info", ("release", "path"))
    PCH_ADDED = ("c67301507f464d329ebaca2c76d08f98", "info", ("release", "path", "profile", "compiler"))
    PCH_NOT_FETCHED = ("848527cc75314f2e9d85dcf3c9d7d032", "warning", ("release", "profile"))
    PCH_REMOVED = ("1b6ef21e90c346618b1175d494f6b52f", "info", ("release", "path"))
    PCH_DAMAGED = ("1cd2df5693194f4ca04d7b0fae026288", "warning", ("release", "path"))
    LEASE_GRANTED = ("1bda923b3ce1400195165f1ca8aa7ead", "info", ("release", "client_uid"))
    LEASE_ENDED = ("91ca69529e044f23b294d33a7ceff264", "info", ("release",))
    MODULE_LOADED = ("3ba49474fda34303a330efd6245e15eb", "info", ())
    MODULE_UNLOADED = ("378c2eeaf1544db2b7e93618c1fd6f52", "info", ())
    MODULE_CHANGED = ("da8cada0df334da0990acb41b296c868", "info", ())
    MODULE_UNLOAD_FAILED = ("7dfbd5d0c1dd492c8df8b0ba721a3916", "warning", ("error",))
    DOWNLOAD_STARTED = ("9c147e7fa033483aadd523dcddd426e5", "info", ("release", "source", "client_uid"))
    REQUEST_REFUSED = ("3db28f43cf2d4e43bdd2f346b3b0cc08", "debug", ("error",))
    REQUEST_FAILED = ("aebb502240c24fbd965af3d9e2c62206", "err", ("error",))
    AHEAD_FAILED = ("7e920cd3377846d8869ba6b5ac699dfb", "warning", ("release", "error"))
    AHEAD_MADE = ("9a4e6105a65c4e8aaa8626c0f93d5e46", "info", ())
    AHEAD_PCH_FAILED = ("4d768515449d45acb617795bc904099b", "warning", ("profile", "error"))
    WATCH_LIMITED = ("d2d5e53ea38a44e9a3648442cf7fd04b", "warning", ("path",))
    METRICS_FAILED = ("4a829100958344b9b1f0f7a48e1080b0", "warning", ("path",))
    CONFIG_LOADED = ("0d35a20cced243a2a8f9f54a9274eb84", "info", ())
    CONFIG_PROBLEM = ("94792640a9de4c54b057292bdce95723", "warning", ("path",))
    BUS_CONNECTED = ("3e3dfa66aff84c718dc1acafd41f28f4", "info", ())
    BUS_LOST = ("ca72721dcb9744ada3b3f05816fecc83", "warning", ())
    LEFT_OUT = ("e70f9d9a172a402eb1059e20eeeec128", "notice", ("left_out",))
    FAILED = ("43ddcbd94fd745299eec29ef822b24ee", "err", ("error",))

    def __init__(self, message_id: str, level: str, fields: tuple[str, ...]) -> None:
        self.message_id = message_id
        self.level = level
        self.fields = fields
