"""Retrieval: what a memory returns of what is stored in it, and how much it can store."""

# Binary memories
from hopmix.retrieval.binary import recall as recall
from hopmix.retrieval.binary import Recalled as Recalled
from hopmix.retrieval.binary import update_all as update_all
from hopmix.retrieval.binary import flip_costs as flip_costs

# What is stored of binary patterns
from hopmix.retrieval.bounds import capacity as capacity
from hopmix.retrieval.bounds import bit_error as bit_error
from hopmix.retrieval.bounds import retrieval_failure as retrieval_failure

# Real patterns
from hopmix.retrieval.bounds import retrieve as retrieve
from hopmix.retrieval.bounds import retrieval_bound as retrieval_bound
from hopmix.retrieval.bounds import pattern_separation as pattern_separation
