// Settings of MathJax 3.2.2, whose copy lies in mathjax/: the pages render formulas without a network.
window.MathJax = {
  tex: {
    inlineMath: [["\\(", "\\)"]],
    displayMath: [["\\[", "\\]"]],
  },
  options: {
    enableMenu: false, // the menu would load further files
    ignoreHtmlClass: ".*|",
    processHtmlClass: "arithmatex",
  },
};
