"""Eval set -> arms -> outcomes -> quantities -> verdict -> report."""
