"""Tools that are no part of the method: files, other people's code by name, optional packages."""
