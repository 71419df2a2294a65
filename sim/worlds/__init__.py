"""Finite distributions, trees and families that studies and claims draw from."""
