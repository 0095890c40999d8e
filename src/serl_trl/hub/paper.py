"""The paper, as the model card cites it."""

PAPER = {
    "title": "SeRL: Self-Play Reinforcement Learning for Large Language Models with Limited Data",
    "id": "2505.20347",
    # docstyle-ignore
    "citation": """@inproceedings{fang2025serl,
    title     = {{SeRL: Self-Play Reinforcement Learning for Large Language Models with Limited Data}},
    author    = {Wenkai Fang and Shunyu Liu and Yang Zhou and Kongcheng Zhang and Tongya Zheng and Kaixuan Chen and Mingli Song and Dacheng Tao},
    booktitle = {Advances in Neural Information Processing Systems},
    year      = {2025},
    eprint    = {arXiv:2505.20347}
}""",
}
