# SPDX-License-Identifier: LGPL-2.1-or-later
"""D-Bus: a connection that survives what others send, and the dispatch of calls to objects."""
