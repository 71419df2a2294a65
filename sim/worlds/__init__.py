"""Finite distributions, trees and families, from seeds; nothing is judged or drawn here."""
