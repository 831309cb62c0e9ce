# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers on request: the decision where a release gets its headers from, and what is served."""
