"""Search: strategies that make choices, engines that run them against a budget, the minimiser, the campaign.

Layer: above `corpus`, beside `report`.
Tests: tests/explore/.
"""
