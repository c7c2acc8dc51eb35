"""Runs the tests of a repository, and says whether all of them passed."""

import json
import sys
import unittest

given = json.loads("GIVEN")
sys.path.insert(0, ".")
sys.dont_write_bytecode = True

loader = unittest.TestLoader()
if given["modules"]:
    suite = loader.loadTestsFromNames(given["modules"])
else:
    suite = loader.discover(".", top_level_dir=".")
result = unittest.TextTestRunner(stream=sys.stdout).run(suite)
passed = result.testsRun > 0 and result.wasSuccessful()
sys.stdout.write(f"\njudged: {'right' if passed else 'tests fail'}\n")
sys.stdout.flush()
