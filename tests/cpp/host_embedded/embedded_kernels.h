// Stands in for what csrc/cuda/nvrtc.py writes: images that are but their own names, and a name for
// each kernel, which its template arguments are part of.
constexpr Image kImages[] = {{90, true, "PTX 9.0"}, {120, true, "PTX 12.0"}, {75, false, "7.5"},
                             {80, false, "8.0"},    {86, false, "8.6"},      {90, false, "9.0"}};

template <Op op, class T, Kind kind, int N>
struct Name {
  static const char* text() { return __PRETTY_FUNCTION__; }
  static inline const char* const value = text();
};

template <NormKernel kernel, class T, int N>
struct NormName {
  static const char* text() { return __PRETTY_FUNCTION__; }
  static inline const char* const value = text();
};
