"""What every transport must do. A transport comes in by a `Door` (`doors.py`); the tests never change for it."""
