"""Tests of Hone; a package so that the fakes can be imported as `tests.fakes`."""
