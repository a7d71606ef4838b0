"""The commands matseg-run, matseg-inspect, matseg-verify and matseg-quantify, and their options."""
