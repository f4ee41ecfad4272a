package spec

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	pageName    = regexp.MustCompile(`\b((?:[\w.-]+/)*[\w-]+\.md)\b(?:[ ,(]*(?:sections? )?(\d+)\b)?`)
	vectorsName = regexp.MustCompile("`vectors/([\\w./*-]+)`")
	testName    = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`")
	testFunc    = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
)

// What documents and comments refer to is there: pages and their sections, folders of
// vectors, tests.
func TestReferences(t *testing.T) {
	texts, tests := map[string]string{}, map[string]bool{}
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && path != ".." && (e.Name()[0] == '.' || e.Name() == "node_modules") {
			return fs.SkipDir
		}
		switch filepath.Ext(path) {
		case ".go", ".md":
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			texts[path] = string(b)
			for _, m := range testFunc.FindAllStringSubmatch(string(b), -1) {
				tests[m[1]] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for path, text := range texts {
		for _, m := range pageName.FindAllStringSubmatch(text, -1) {
			name, section := m[1], m[2]
			if strings.Contains(name, "NNNN") || strings.Contains(name, "YYYY") {
				continue // a pattern
			}
			var page string
			for _, at := range []string{filepath.Dir(path), "..", "../spec"} {
				if p, ok := texts[filepath.Join(at, name)]; ok {
					page = p
					break
				}
			}
			switch {
			case page == "":
				t.Errorf("%s refers to %s, which is not there", path, name)
			case section != "" && !strings.Contains(page, "\n## "+section+". "):
				t.Errorf("%s refers to section %s of %s, which is not there", path, section, name)
			}
			found++
		}
		if filepath.Ext(path) != ".md" {
			continue
		}
		for _, m := range vectorsName.FindAllStringSubmatch(text, -1) {
			if names, err := filepath.Glob(filepath.Join("vectors", m[1])); err != nil || len(names) == 0 {
				t.Errorf("%s refers to vectors/%s, which are not there", path, m[1])
			}
			found++
		}
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			if !tests[m[1]] {
				t.Errorf("%s refers to %s, which is no test", path, m[1])
			}
			found++
		}
	}
	if found < 100 {
		t.Errorf("only %d references were found", found)
	}
}

// The map names every page.
func TestLayoutNamesEveryPage(t *testing.T) {
	layout, err := os.ReadFile("layout.md")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		if page != "layout.md" && !strings.Contains(string(layout), page) {
			t.Errorf("spec/layout.md does not name %s", page)
		}
	}
}
