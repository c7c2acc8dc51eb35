"""Runs a function that a model wrote on cases, and says whether it did right."""

import ast
import copy
import io
import json
import sys

given = json.loads("GIVEN")
out, sys.stdout, sys.stderr = sys.stdout, io.StringIO(), io.StringIO()


def judge():
    name = given["function"]
    try:
        tree = ast.parse(given["code"])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "it is not Python"
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    if not functions:
        return f"it has no function {name}"
    nodes = {type(node).__name__ for node in ast.walk(functions[-1])}
    for kind in given["nodes"]:
        if kind not in nodes:
            return f"the function has no {kind}"
    space = {"__name__": "answer"}
    try:
        exec(compile(given["before"], "before", "exec"), space)
        exec(compile(tree, "answer", "exec"), space)
        function = space[name]
        if given["tests"]:
            exec(compile(given["tests"], "tests", "exec"), space)
            space["check"](function)
        for case in given["cases"]:
            arguments = copy.deepcopy(case["arguments"])
            got = function(*arguments)
            if type(got) is not type(case["expected"]) or got != case["expected"]:
                return f"{name}({', '.join(map(repr, case['arguments']))}) is another"
            if arguments != case["arguments"]:
                return "it changes its arguments"
    except BaseException as error:
        return f"it raises {type(error).__name__}"
    return "right"


verdict = judge()
out.write(f"\njudged: {verdict}\n")
out.flush()
