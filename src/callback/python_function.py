# Runs one function for a callback. Standard input contains the call as JSON; the result is written as JSON to the file that
# is the only argument, so that the function may print anything.
import importlib
import json
import sys
import traceback


def main():
    asked = json.load(sys.stdin)
    sys.stdin.close()
    sys.stdin = open("/dev/null")
    name = ".".join(part for part in (asked["package"], asked["module"]) if part)
    try:
        function = getattr(importlib.import_module(name), asked["function"])
        value = function(*asked["args"], **asked["kwargs"])
    except BaseException as error:
        if isinstance(error, SystemExit) and error.code in (None, 0):
            error = RuntimeError("the function ended the program")
        return {"exception": "{}: {}".format(type(error).__name__, error), "traceback": traceback.format_exc()}
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        reason = "the function returned {}, which is not JSON-serializable: {}".format(type(value).__name__, error)
        return {"exception": reason, "traceback": None}
    return {"value": value}


outcome = main()
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(outcome, file)
sys.stdout.flush()
