"""The Python kubernetes client against the simulated API, whose URL is argv[1].

It asks for faults by a line on standard output and waits for the answer.
"""

import os
import sys
import threading

from kubernetes import client, dynamic, watch
from kubernetes.client.rest import ApiException


def ask(request):
    print(request, flush=True)
    assert sys.stdin.readline() == "ok\n"


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == code, error
        return error
    raise AssertionError(f"{code} expected")


def pod(name):
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, labels={"app": "web"}),
        spec=client.V1PodSpec(
            containers=[
                client.V1Container(
                    name="c",
                    image="example:1",
                    ports=[client.V1ContainerPort(container_port=80)],
                )
            ]
        ),
    )


def objects(api):
    core, networking = client.CoreV1Api(api), client.NetworkingV1Api(api)
    core.create_namespaced_pod("default", pod("a"))
    refused(409, core.create_namespaced_pod, "default", pod("a"))
    refused(422, core.create_namespaced_pod, "default", pod("Not A Name"))
    refused(404, core.read_namespaced_pod, "none", "default")
    refused(400, core.list_pod_for_all_namespaces, field_selector="spec.color=red")
    core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"tier": "1"}}})
    listed = core.list_pod_for_all_namespaces(label_selector="tier=1").items
    assert [one.metadata.name for one in listed] == ["a"]
    assert listed[0].spec.containers[0].ports[0].protocol == "TCP"

    binding = client.V1Binding(
        metadata=client.V1ObjectMeta(name="a"),
        target=client.V1ObjectReference(kind="Node", name="n"),
    )
    core.create_namespaced_pod_binding("a", "default", binding, _preload_content=False)
    core.patch_namespaced_pod_status("a", "default", {"status": {"phase": "Running"}})
    read = core.read_namespaced_pod("a", "default")
    assert (read.spec.node_name, read.status.phase) == ("n", "Running")
    deleting = core.delete_namespaced_pod("a", "default")
    assert deleting.metadata.deletion_grace_period_seconds == 30
    core.delete_namespaced_pod("a", "default", grace_period_seconds=0)
    refused(404, core.read_namespaced_pod, "a", "default")

    policy = client.V1NetworkPolicy(
        metadata=client.V1ObjectMeta(name="p"),
        spec=client.V1NetworkPolicySpec(pod_selector=client.V1LabelSelector()),
    )
    made = networking.create_namespaced_network_policy("default", policy)
    assert made.spec.policy_types == ["Ingress"]
    made.spec.policy_types = ["Egress"]
    networking.replace_namespaced_network_policy("p", "default", made)
    refused(409, networking.replace_namespaced_network_policy, "p", "default", made)

    node = client.V1Node(
        metadata=client.V1ObjectMeta(name="n"),
        status=client.V1NodeStatus(capacity={"pods": "29"}),
    )
    assert core.create_node(node).status.allocatable == {"pods": "29"}

    pods = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="Pod")
    assert pods.get(namespace="default").items == []


def chunks(api):
    core = client.CoreV1Api(api)
    for number in range(5):
        core.create_namespaced_pod("default", pod(f"p{number}"))
    names, token = [], None
    while True:
        page = core.list_namespaced_pod("default", limit=2, _continue=token)
        names += [one.metadata.name for one in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"p{number}" for number in range(5)], names
    core.delete_collection_namespaced_pod("default")


def long_watch(api):
    """Follows pods as a controller does, while the history is lost twice."""
    core = client.CoreV1Api(api)
    known, changed = {}, threading.Condition()
    relists = 0

    def follow():
        nonlocal relists
        while True:
            page = core.list_namespaced_pod("default")
            with changed:
                relists += 1
                known.clear()
                known.update({one.metadata.name: one for one in page.items})
                changed.notify_all()
            version = page.metadata.resource_version
            try:
                while True:
                    stream = watch.Watch().stream(
                        core.list_namespaced_pod,
                        "default",
                        resource_version=version,
                        timeout_seconds=60,
                        allow_watch_bookmarks=True,
                    )
                    for event in stream:
                        one = event["object"]
                        if event["type"] == "BOOKMARK":
                            version = event["raw_object"]["metadata"]["resourceVersion"]
                            continue
                        version = one.metadata.resource_version
                        with changed:
                            if event["type"] == "DELETED":
                                known.pop(one.metadata.name, None)
                            else:
                                known[one.metadata.name] = one
                            changed.notify_all()
            except ApiException as error:
                assert error.status == 410, error

    threading.Thread(target=follow, daemon=True).start()

    def wait(expected):
        with changed:
            assert changed.wait_for(lambda: sorted(known) == expected, timeout=30), known

    def lose_history():
        # The version moves on unseen, so that the watcher's own is too old.
        unseen = client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="x"))
        core.create_namespaced_config_map("default", unseen)
        ask("expire")

    wait([])
    core.create_namespaced_pod("default", pod("w1"))
    wait(["w1"])
    lose_history()
    core.create_namespaced_pod("default", pod("w2"))
    wait(["w1", "w2"])
    core.delete_namespaced_pod("w1", "default")
    wait(["w2"])
    # From before the loss: an ERROR event, which the library raises as 410.
    stream = watch.Watch().stream(
        core.list_namespaced_pod, "default", resource_version="1", timeout_seconds=5
    )
    error = refused(410, list, stream)
    assert "too old resource version: 1" in str(error), error
    lose_history()
    core.create_namespaced_pod("default", pod("w3"))
    wait(["w2", "w3"])
    assert relists == 3, relists


def main():
    configuration = client.Configuration()
    configuration.host = sys.argv[1]
    api = client.ApiClient(configuration)
    objects(api)
    chunks(api)
    long_watch(api)
    ask("done")


main()
# The follower never ends, and the interpreter must not end under it.
os._exit(0)
