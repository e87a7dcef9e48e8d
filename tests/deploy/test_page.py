"""docs/kubernetes.md: its commands name commands, options, folders and objects that exist."""

import re
import subprocess

import yaml
from typer.testing import CliRunner

from tests.deploy.render import KUBERNETES, OVERLAYS, ROOT, Object, container, name, overlay, workloads
from workers.cli.app import app

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
KINDS = {"deploy": "Deployment", "deployment": "Deployment", "statefulset": "StatefulSet"}


def test_no_command_is_run_here_and_the_page_says_why() -> None:
    assert BLOCKS and PAGE.count("<!-- not run: needs a cluster -->\n```sh\n") == len(BLOCKS)


def test_commands_and_options_of_factstream_exist() -> None:
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    lines = [
        line for block in BLOCKS for line in re.findall(r"(?:^|-- )factstream ([a-z][^|>\n#]*)", block, re.M)
    ]
    assert len(lines) > 5
    for line in lines:
        words = line.split()
        result = runner.invoke(app, [*words[: 2 if words[0] == "memories" else 1], "--help"])
        assert result.exit_code == 0, line
        for option in (word for word in words if word.startswith("--")):
            assert option in result.output, line


def test_folders_and_objects_of_the_page_exist() -> None:
    for folder in re.findall(r"deploy/kubernetes/([\w/-]+)", PAGE):
        assert (KUBERNETES / folder / "kustomization.yaml").is_file()
    for folder in re.findall(r"`((?:overlays|components)/[\w-]+|base)`", PAGE):
        assert (KUBERNETES / folder / "kustomization.yaml").is_file()
    assert set(re.findall(r"`overlays/([\w-]+)`", PAGE)) == set(OVERLAYS)
    objects = overlay("production") + overlay("next-model")
    for kind, named in re.findall(r"\b(deploy|deployment|statefulset)/(factstream[\w-]*)", PAGE):
        assert (KINDS[kind], named) in {(found["kind"], name(found)) for found in objects}
    known = {name(found) for found in objects} | {"factstream-settings"}  # whose name has a hash
    known |= {f"{name(w)}-0" for w in workloads(overlay("production")).values() if w["kind"] == "StatefulSet"}
    assert set(re.findall(r"\bfactstream-[\w-]*\w", PAGE)) <= known


def test_kafka_of_the_page_is_the_one_that_the_overlay_expects() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    spec = yaml.safe_load(text)["spec"]
    assert spec["kafka"]["authorization"] == {"type": "simple"}
    (listener,) = spec["kafka"]["listeners"]
    assert listener["tls"] and listener["authentication"] == {"type": "tls"}
    objects = overlay("production")
    (settings,) = (found for found in objects if name(found).startswith("factstream-settings"))
    assert settings["data"]["FACTSTREAM_BOOTSTRAP"] == f"kafka-kafka-bootstrap:{listener['port']}"
    assert container(workloads(objects)["writer"])["envFrom"] == [{"configMapRef": {"name": name(settings)}}]
    assert {"topicOperator", "userOperator"} == set(spec["entityOperator"])


def test_rules_for_the_operator_are_the_alerts() -> None:
    (block,) = (block for block in BLOCKS if "PrometheusRule" in block)
    script = block.replace("kubectl apply -f -", "cat")
    assert script != block
    done = subprocess.run(["sh", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=True)
    rule: Object = yaml.safe_load(done.stdout)
    assert (rule["kind"], rule["metadata"]["namespace"]) == ("PrometheusRule", "factstream")
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
