"""Requests of Kubernetes 1.36 read as English, with kinds as people write them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.alerts.explain.explainer import Explainer
from serving.alerts.explain.phrases import ActionPhrase
from serving.schemas import ObjectReference
from tests.data.kubernetes_136 import REQUESTS, Request


def phrase(request_: Request) -> ActionPhrase:
    ref = {name: value for name, value in request_.event["objectRef"].items() if name != "apiVersion"}
    return ActionPhrase(
        request_.verb, ObjectReference.model_validate(ref), None, 200, None, sorted(request_.traits)
    )


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request_: request_.name)
def test_a_request_reads_as_english(request_: Request, explainer: Explainer) -> None:
    words = explainer.describe(phrase(request_))
    assert words.partition(", with ")[0] == request_.words


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request_: request_.name)
def test_its_traits_have_words_and_no_form_of_their_own(request_: Request, explainer: Explainer) -> None:
    traits = phrase(request_).traits
    if any(
        trait.partition("=")[0] in ("snippet", "userData", "readsAll", "conversionWebhook", "backendIn")
        for trait in traits
    ):
        assert ", with " in explainer.describe(phrase(request_))
    assert "=" not in explainer.describe(phrase(request_))


@pytest.mark.parametrize(
    ("resource", "subresource", "words"),
    [
        ("certificatesigningrequests", "status", "issued the certificate of certificate request x"),
        ("namespaces", "finalize", "finished the deletion of namespace x"),
        ("services", "status", "changed the status of Service x"),
        ("widgets", "rotation", "changed the rotation of widget x"),
    ],
)
def test_a_subresource_reads_as_english(
    resource: str, subresource: str, words: str, explainer: Explainer
) -> None:
    ref = ObjectReference(resource=resource, subresource=subresource, name="x")
    action = ActionPhrase("patch", ref, None, 200, None)
    assert explainer.describe(action) == words
    assert explainer.describe(replace(action, code=403)).startswith("tried to ")
