// Package vectors embeds the project's test vectors, one folder per document
// of spec/. They were made once and do not change. Only tests import it.
package vectors

import "embed"

// FS holds the folders as they lie beside this file.
//
//go:embed all:*
var FS embed.FS
