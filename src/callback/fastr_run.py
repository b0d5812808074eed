# Runs one network for a callback. The only argument is a JSON file that describes the run.
import importlib.util
import json
import sys

try:
    import fastr
except ImportError as error:
    print("fastr cannot be used with {}: {}".format(sys.executable, error), file=sys.stderr)
    sys.exit(3)

with open(sys.argv[1], encoding="utf-8") as file:
    asked = json.load(file)
if asked["network"].endswith(".json"):
    network = fastr.api.Network.load(asked["network"])
else:
    spec = importlib.util.spec_from_file_location("studygovernor_network", asked["network"])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.create_network()
run = network.execute(asked["source_data"], asked["sink_data"], tmpdir=asked["tmpdir"])
if run is None:
    print("the network is not valid", file=sys.stderr)
    sys.exit(2)
sys.exit(0 if run.result else 1)
