"""Rubbish in: files of every kind, damaged at random, put before the code that reads them."""
