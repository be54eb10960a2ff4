// Package guard holds the tests that keep the project's shape: which package may import which, a doc comment for each
// package, the modules that each program is made of, generated files that match their sources, and clean linters.
package guard
