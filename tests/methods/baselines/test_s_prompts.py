import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import Classes, TaskData
from mmcl_fast.methods.baselines.s_prompts import SPrompts, SPromptsOptions, k_means
from mmcl_fast.methods.shared.classifier import classifier_input
from mmcl_fast.methods.shared.embedding import unit_query
from tests.methods.baselines.prompt_pools import CLASSES, pictures, task
from tests.toy import ToyEncoder


def towards(axis, count=6):
    """Noise tokens whose queries lie around one axis."""
    tokens = pictures(count, seed=axis)
    return Tokens(tokens.tokens, F.one_hot(torch.tensor([axis]), 48).float() + 0.01 * tokens.query.abs())


def two_domains(modality="image", rows=False):
    """Classes 0 and 1 in a domain of images around axis 0; classes 3 and 1 in another around axis 5."""
    method = SPrompts(ToyEncoder(), SPromptsOptions(epochs=2, centroids=2, token_scale_shift=rows))
    classes = Classes([("image", str(i)) for i in range(4)])
    method.learn(TaskData(0, "image", towards(0), torch.tensor([0, 1] * 3), [0, 1]), classes)
    method.learn(TaskData(1, modality, towards(5), torch.tensor([3, 1] * 3), [3, 1]), classes)
    return method, classes


def test_k_means_finds_the_means_of_groups():
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = (groups.unsqueeze(1) + torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]])).flatten(0, 1)
    found = k_means(x, 3, generator)
    torch.testing.assert_close(found[(found @ torch.tensor([1.0, 2.0])).argsort()], groups)
    assert k_means(x[:1].expand(5, 2), 3, generator).tolist() == [[0.0, 1.0]]  # fewer distinct rows than asked for
    torch.testing.assert_close(k_means(x, 1, generator), x.mean(0, keepdim=True))


@pytest.mark.parametrize("rows", [False, True])
def test_the_nearest_centroid_names_prompt_and_classifier(rows):
    method, classes = two_domains(rows=rows)
    queries = Tokens(pictures(2, seed=9).tokens, F.one_hot(torch.tensor([5, 0]), 48).float())
    scores = method.scores(queries, "image", classes, given=False)
    for row, number in ((0, 1), (1, 0)):
        domain = method.domains[number]
        prefix, added = method.head.unpack(domain.prompt, "image", queries.tokens.shape[2])
        assert added.ne(0).any() if rows else not added.numel()
        one = queries[torch.tensor([row])]
        if rows:
            shift, gain = added.chunk(2, dim=-1)
            rms = one.tokens.square().mean(-1, keepdim=True).sqrt()
            one = Tokens(one.tokens * (1 + gain) + rms * shift, one.query)
        z = method.encoder.head(one, prefix, "image")
        torch.testing.assert_close(scores[row, domain.classes], domain.classifier(z)[0])
        others = [c for c in range(4) if c not in domain.classes]
        assert scores[row, others].eq(float("-inf")).all()


def test_any_one_centroid_of_a_domain_may_be_the_nearest():
    method, classes = two_domains()
    axes = torch.eye(48)
    method.domains[0].centroids, method.domains[1].centroids = torch.stack([axes[0], -axes[0]]), axes[5:6]
    queries = Tokens(pictures(3).tokens, axes[0] * torch.tensor([[0.9], [0.1], [-0.9]]) + 0.4 * axes[5])
    scores = method.scores(queries, "image", classes, given=False)
    assert [row.isfinite().nonzero().flatten().tolist() for row in scores] == [[0, 1], [1, 3], [0, 1]]


def test_a_given_modality_chooses_among_its_own_domains():
    method, classes = two_domains("depth")
    near_depth = Tokens(pictures(1, seed=9).tokens, F.one_hot(torch.tensor([5]), 48).float())
    finite = {
        given: method.scores(near_depth, "image", classes, given=given)[0].isfinite().nonzero().flatten().tolist()
        for given in (False, True)
    }
    assert finite == {False: [1, 3], True: [0, 1]}
    assert method.scores(near_depth, "video", classes, given=True)[0, 3].isfinite()  # video has no domain: as agnostic


def test_on_another_grid_of_tokens_the_prefix_alone_is_taken():
    method, classes = two_domains(rows=True)
    longer = pictures(2, seed=3)
    longer = Tokens(torch.cat([longer.tokens, longer.tokens], 1), F.one_hot(torch.tensor([5, 0]), 48).float())
    scores = method.scores(longer, "depth", classes, given=False)
    for row, number in ((0, 1), (1, 0)):
        domain = method.domains[number]
        prefix = domain.prompt[: method.head.prefix("depth").numel()].unflatten(0, method.head.prefix("depth"))
        z = method.encoder.head(longer[torch.tensor([row])], prefix, "depth")
        torch.testing.assert_close(scores[row, domain.classes], domain.classifier(z)[0])


def test_rows_come_back_from_their_state():
    method, classes = two_domains(rows=True)
    other = SPrompts(ToyEncoder(), method.options)
    other.load_state(*method.state())
    tokens = towards(5)
    before = method.scores(tokens, "image", classes, given=False)
    assert torch.equal(other.scores(tokens, "image", classes, given=False), before)


def test_a_state_of_earlier_versions_comes_back():
    method, classes = two_domains()
    tensors, values = method.state()
    former = {name.split("/", 1)[1]: tensor for name, tensor in tensors.items()}
    assert {"0/weight", "1/prompt"} <= former.keys() and len(former) == len(tensors)
    other = SPrompts(ToyEncoder(), method.options)
    other.load_state(*other.migrate_state(former, values))
    tokens = towards(5)
    scores = [m.scores(tokens, "image", classes, given=False) for m in (method, other)]
    assert torch.equal(*scores)
    assert other.migrate_state(tensors, values)[0].keys() == tensors.keys()


def test_a_domains_classifier_may_read_the_query():
    method, classes = two_domains()
    method = SPrompts(ToyEncoder(), method.options.model_copy(update={"features": "zq"}))
    method.learn(TaskData(0, "image", towards(0), torch.tensor([0, 1] * 3), [0, 1]), classes)
    tokens, domain = towards(5), method.domains[0]
    f = classifier_input(method.head.head(tokens, domain.prompt, "image"), tokens.query)
    expected = f @ domain.classifier.weight.T + domain.classifier.bias
    scores = method.scores(tokens, "image", classes, given=False)
    torch.testing.assert_close(scores[:, :2], expected, rtol=1e-5, atol=1e-5)


def test_a_later_domain_changes_nothing_of_the_earlier_ones():
    method = SPrompts(ToyEncoder(), SPromptsOptions(epochs=2))
    tokens = pictures()
    method.learn(task(tokens), CLASSES)
    before = {k: v.clone() for k, v in method.state()[0].items()}
    method.learn(task(pictures(seed=1), 1), CLASSES)
    after = method.state()[0]
    assert len(before) == 4 and all(torch.equal(after[k], v) for k, v in before.items())
    assert not torch.equal(after["domain/0/prompt"], after["domain/1/prompt"])


def test_centroids_are_those_of_the_queries():
    method = SPrompts(ToyEncoder(), SPromptsOptions(epochs=1, centroids=1))
    tokens = pictures()
    method.learn(task(tokens), CLASSES)
    torch.testing.assert_close(method.domains[0].centroids, unit_query(tokens).mean(0, keepdim=True))


def test_a_tower_without_a_domain_scores_zero_shot():
    method, classes = two_domains()
    classes.embedding = F.normalize(torch.eye(4, 24), dim=1)
    words = method.encoder.trunk(["some words"], "text")
    z = F.normalize(method.encoder.head(words, None, "text"), dim=1)
    torch.testing.assert_close(method.scores(words, "text", classes, given=False), 10 * z @ classes.embedding.T)
