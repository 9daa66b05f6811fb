"""Source text of the state of neurons: where the variables of each lie, and how its update loads and stores them.

Of as many variables as fill 16 bytes a neuron has its values side by side, so that one instruction loads them and one
stores them; the others have an array each. Whatever else reads or adds to a variable sees an array of its values.
"""

from sbi_circuits.engines.cuda_columns import Columns


class States:
    """Prints access to the state of one circuit.

    Args:
        columns: the circuit and its translations.
        single: precision of the state.
    """

    def __init__(self, columns: Columns, single: bool):
        self.parts, self.lanes = columns.parts, 4 if single else 2

    def together(self, k: int) -> list[tuple[str, ...]]:
        """Variables of population k of which each neuron has 16 bytes in one place."""
        variables = self.parts[k].variables
        return [variables[c : c + self.lanes] for c in range(0, len(variables) - self.lanes + 1, self.lanes)]

    def apart(self, k: int) -> tuple[str, ...]:
        """The other variables of population k."""
        return self.parts[k].variables[sum(map(len, self.together(k))) :]

    def views(self, k: int, first: str) -> list[str]:
        """Arrays of the variables of population k, which begin at `first`."""
        lines, row = [], 0
        for c, variables in enumerate(self.together(k)):
            begin, end = f"{first} + {row} * n_{k}", f"{first} + {row + self.lanes} * n_{k}"
            lines.append(f"        together{k}_{c} = large_real[{begin} : {end}]")
            lines += [
                f"        a{k}_{v} = large_real[{begin} + {n} : {end} : {self.lanes}]" for n, v in enumerate(variables)
            ]
            row += self.lanes
        for v in self.apart(k):
            lines.append(f"        a{k}_{v} = large_real[{first} + {row} * n_{k} : {first} + {row + 1} * n_{k}]")
            row += 1
        return lines

    def parameters(self, k: int) -> str:
        """State and inputs of population k as parameters of its update."""
        names = [*(f"together_{c}" for c in range(len(self.together(k)))), *(f"a_{v}" for v in self.apart(k))]
        return "".join(f", {name}" for name in (*names, *self.parts[k].shared))

    def arguments(self, k: int) -> str:
        """The same as the kernel gives them."""
        names = [*(f"together{k}_{c}" for c in range(len(self.together(k)))), *(f"a{k}_{v}" for v in self.apart(k))]
        return "".join(f", {name}" for name in (*names, *(f"x{k}_{n}" for n in self.parts[k].shared)))

    def load(self, k: int) -> list[str]:
        """The variables and the noise of one neuron."""
        lines = [
            f"        {', '.join(names)} = load_together(together_{c}, np.uint32({self.lanes} * at_))"
            for c, names in enumerate(self.together(k))
        ]
        return [*lines, *(f"        {v} = a_{v}[at_]" for v in (*self.apart(k), *self.parts[k].noise))]

    def store(self, k: int, changed: set[str]) -> list[str]:
        """Store the variables of one neuron that may have changed."""
        lines = [
            f"        store_together(together_{c}, np.uint32({self.lanes} * at_), ({', '.join(names)}))"
            for c, names in enumerate(self.together(k))
            if changed & set(names)
        ]
        return [*lines, *(f"        a_{v}[at_] = {v}" for v in self.apart(k) if v in changed)]
